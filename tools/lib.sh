# What the scripts beside it share. Sourced, with the repository's root as the current
# directory.

say() { printf '\n==> %s\n' "$*"; }
die() { printf 'tools/%s: %s\n' "${0##*/}" "$*" >&2; exit 1; }

new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; }

# The distribution's Python, where it can be had: its packages run with it, and it is
# faster than one that was compiled without a profile.
if [ -z "${PYTHON:-}" ]; then
    PYTHON=python3
    if { new_enough /usr/bin/python3 && /usr/bin/python3 -c 'import ensurepip'; } 2>/dev/null
    then
        PYTHON=/usr/bin/python3
    fi
fi

# What of the system tests are skipped without: Ceph's and Swift's S3, extended
# attributes and ACLs, what opens a backup without the agent.
PROGRAMS=(ceph ceph-mon ceph-osd monmaptool radosgw radosgw-admin
    swift-account-server swift-container-server swift-object-server swift-proxy-server
    memcached getfattr setfacl age age-keygen zstd zsh)
PACKAGES=(ceph-mon ceph-osd radosgw ceph-common
    swift-account swift-container swift-object swift-proxy memcached attr acl age zstd zsh)

missing() {  # the programs that are not there
    local program
    for program in "${PROGRAMS[@]}"; do
        command -v "$program" >/dev/null || printf '%s ' "$program"
    done
}

# A virtual environment, made if it is not there; first in PATH afterwards.
#
#   virtual_environment tests    .venv: the agent, its extras and all that tests need
#   virtual_environment agent    .venv: the agent and its extras
#   virtual_environment oldest   .venv-oldest: as for tests, with the oldest botocore
#
# pip runs when something has changed since it last did.
virtual_environment() {
    local wanted=$1 where=.venv oldest
    local stamp now packages
    packages=(-e '.[zstd,encryption,crt,quickstart,scheduler,scheduler-api,metrics]')
    case $wanted in
        tests) packages=(-r test-requirements.txt "${packages[@]}") ;;
        oldest)
            where=.venv-oldest
            oldest=$(sed -n 's/^botocore>=\([0-9.]*\).*/\1/p' requirements.txt)
            # With the urllib3 that Debian 12 has beside it.
            packages=(-r test-requirements.txt "${packages[@]}"
                "botocore==$oldest" 'urllib3==1.26.12')
            ;;
    esac
    if [ ! -x $where/bin/python ]; then
        command -v "$PYTHON" >/dev/null || die "no $PYTHON; set PYTHON to a Python 3.11+"
        new_enough "$PYTHON" ||
            die "$("$PYTHON" --version) is too old: 3.11 is needed; set PYTHON"
        # Where ensurepip is missing, one without pip is left.
        "$PYTHON" -m venv $where ||
            { rm -rf $where; die "$PYTHON cannot make a venv (Debian: python3-venv)"; }
    fi
    new_enough $where/bin/python ||
        die "$where has $($where/bin/python --version), 3.11 is needed: remove $where"
    # The directory too: the editable installation points at it.
    now=$({ pwd; cat requirements.txt test-requirements.txt pyproject.toml setup.*; } |
        sha256sum)
    # The tests have all that the agent needs.
    stamp=$where/requirements.sha256
    if [ "$wanted" = agent ] && [ "$(cat $stamp 2>/dev/null)" != "$now" ]; then
        stamp=$where/agent.sha256
    fi
    if [ "$(cat $stamp 2>/dev/null)" != "$now" ]; then
        say "pip install ($where)"
        $where/bin/python -m pip install -q --disable-pip-version-check "${packages[@]}"
        echo "$now" >$stamp
    fi
    # Absolute, so that what changes directory finds the same programs.
    PATH=$PWD/$where/bin:$PATH
}
