# Shared functions of the scripts in this directory. Source it with the repository's root
# as the current directory.

say() { printf '\n==> %s\n' "$*"; }
die() { printf 'tools/%s: %s\n' "${0##*/}" "$*" >&2; exit 1; }

new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; }

# Prefer the distribution's Python: the distribution's packages run with it, and it is
# faster than one that was compiled without profile-guided optimization.
if [ -z "${PYTHON:-}" ]; then
    PYTHON=python3
    if { new_enough /usr/bin/python3 && /usr/bin/python3 -c 'import ensurepip'; } 2>/dev/null
    then
        PYTHON=/usr/bin/python3
    fi
fi

# Without these programs some tests are skipped: Ceph's and Swift's S3, extended attributes
# and ACLs, file systems in files, LVM under another kernel, mounts, a browser for the
# documentation, tools to compare with, those that open a backup without the agent, and
# databases.
PROGRAMS=(ceph ceph-mon ceph-osd monmaptool radosgw radosgw-admin
    swift-account-server swift-container-server swift-object-server swift-proxy-server
    memcached getfattr setfacl age age-keygen zstd zsh gcc mkfs.btrfs mkfs.ext4 mkfs.xfs linux.uml
    modprobe lvcreate chromium restic borg fusermount3 fish sshd ssh-keygen redis-server
    etcd mariadbd mariadb-install-db mariadb-backup pg_basebackup vsftpd rbd
    rabbitmq-server qemu-img)
PACKAGES=(ceph-mon ceph-osd radosgw ceph-common
    swift-account swift-container swift-object swift-proxy python3-keystonemiddleware
    memcached attr acl age zstd zsh
    gcc libc6-dev btrfs-progs e2fsprogs xfsprogs
    user-mode-linux kmod lvm2 chromium restic borgbackup fuse3 fish
    openssh-server openssh-client redis-server etcd-server
    mariadb-server mariadb-backup postgresql-15 vsftpd
    python3-rbd rabbitmq-server qemu-utils)

missing() {  # the programs that are not installed
    local program
    for program in "${PROGRAMS[@]}"; do
        command -v "$program" >/dev/null || printf '%s ' "$program"
    done
}

# Installs packages into the environment of a Python, by uv: pip takes up to seven minutes
# for these. By pip where uv finds no index, as uv does not read pip's configuration.
add_packages() {
    local python=$1 pip=(-m pip install -q --disable-pip-version-check)
    shift
    "$python" "${pip[@]}" 'uv>=0.13'
    "$python" -m uv pip install -q --system-certs --compile-bytecode --python "$python" \
        "$@" ||
        { say 'uv failed: pip install'; "$python" "${pip[@]}" "$@"; }
}

# Creates a virtual environment if necessary, and puts it first in PATH.
#
#   virtual_environment tests    .venv: the agent, its extras and the test dependencies
#   virtual_environment agent    .venv: the agent and its extras
#   virtual_environment oldest   .venv-oldest: as for tests, with the oldest botocore
#
# Packages are installed only if the requirements changed since the last time.
virtual_environment() {
    local wanted=$1 where=.venv oldest
    local stamp now packages
    packages=(-e '.[zstd,encryption,crt,blake3,mount,quickstart,ssh,swift,scheduler,scheduler-api,coordination,metrics,openstack,mysql,mongo]')
    case $wanted in
        tests) packages=(-r test-requirements.txt "${packages[@]}") ;;
        oldest)
            where=.venv-oldest
            oldest=$(sed -n 's/^botocore>=\([0-9.]*\).*/\1/p' requirements.txt)
            # With the urllib3 of Debian 12.
            packages=(-r test-requirements.txt "${packages[@]}"
                "botocore==$oldest" 'urllib3==1.26.12')
            ;;
    esac
    if [ ! -x $where/bin/python ]; then
        command -v "$PYTHON" >/dev/null || die "no $PYTHON; set PYTHON to a Python 3.11+"
        new_enough "$PYTHON" ||
            die "$("$PYTHON" --version) is too old: 3.11 is needed; set PYTHON"
        # If ensurepip is missing, venv leaves an environment without pip.
        "$PYTHON" -m venv $where ||
            { rm -rf $where; die "$PYTHON cannot make a venv (Debian: python3-venv)"; }
    fi
    new_enough $where/bin/python ||
        die "$where has $($where/bin/python --version), 3.11 is needed: remove $where"
    # Including the directory, because the editable installation refers to it.
    now=$({ pwd; cat requirements.txt test-requirements.txt pyproject.toml setup.*; } |
        sha256sum)
    # The environment for tests contains the agent's dependencies.
    stamp=$where/requirements.sha256
    if [ "$wanted" = agent ] && [ "$(cat $stamp 2>/dev/null)" != "$now" ]; then
        stamp=$where/agent.sha256
    fi
    if [ "$(cat $stamp 2>/dev/null)" != "$now" ]; then
        say "uv pip install ($where)"
        add_packages $where/bin/python "${packages[@]}"
        echo "$now" >$stamp
    fi
    # Absolute, so that it works from other directories.
    PATH=$PWD/$where/bin:$PATH
}
