#!/bin/bash
# Builds Debian packages of the files in git, with packaging/debian and Debian's own
# libraries, without the network; installs them; and tests the installed commands: chains,
# backups and restores on a real S3 server, and the scheduler. Then removes the packages
# and everything that was installed for them. Debian 12 or newer, as root.
#
#   tools/debian.sh           takes some minutes; writes the packages to dist/debian
#   tools/debian.sh --build   only builds; installs the build dependencies, and removes them
#
#   TMPDIR   parent of the temporary directory (/tmp)
set -euo pipefail
cd "$(dirname "$0")/.."
. tools/lib.sh

BUILD=
case ${1:-} in
    '') ;;
    --build) BUILD=yes ;;
    *) die "unknown option $1; see the first lines of tools/debian.sh" ;;
esac
[ "$(id -u)" = 0 ] || die 'must run as root, to install packages'
[ -e /etc/debian_version ] || die 'this is not Debian'

check_not_installed() {
    local package path
    for package in freezer-agent freezer-scheduler python3-freezer; do
        if dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null | grep -q .; then
            die "$package or its configuration is installed; this script would remove it"
        fi
    done
    for path in /etc/freezer /var/lib/freezer-scheduler /run/freezer-scheduler; do
        [ ! -e $path ] || die "$path exists; run this on another machine"
    done
}
# --build neither installs nor removes them.
[ -n "$BUILD" ] || check_not_installed

SCRATCH=$(mktemp -d "${TMPDIR:-/tmp}/freezer-debian.XXXXXX")
# The system's programs, not those of pip or another Python.
SYSTEM=/usr/sbin:/usr/bin:/sbin:/bin
ADDED=()

clean_up() {
    local code=$?
    trap '' INT TERM HUP
    if [ ${#ADDED[@]} -gt 0 ]; then
        say "removing ${#ADDED[@]} packages"
        # dpkg refuses to remove what another package needs by now, and reports it.
        dpkg --purge "${ADDED[@]}" >"$SCRATCH/purge.log" 2>&1 ||
            { cat "$SCRATCH/purge.log"; [ $code -ne 0 ] || code=1; }
    fi
    rm -rf "$SCRATCH"
    exit $code
}
trap clean_up EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM

add() {  # runs apt-get with these arguments, and records newly installed packages
    local options=(-q -y --no-install-recommends)
    mapfile -t -O ${#ADDED[@]} ADDED < <(
        apt-get -s "${options[@]}" "$@" | sed -n 's/^Inst \([^ ]*\) (.*/\1/p')
    DEBIAN_FRONTEND=noninteractive PATH=$SYSTEM \
        apt-get "${options[@]}" "$@" >"$SCRATCH/apt.log" 2>&1 ||
        { cat "$SCRATCH/apt.log"; die 'apt-get failed; apt-get update may help'; }
}

say 'build dependencies'
# apt-get reads them from a tree with debian/control.
mkdir "$SCRATCH/needs"
cp -r packaging/debian "$SCRATCH/needs"
add install dpkg-dev fakeroot
add build-dep "$SCRATCH/needs"

say 'source'
VERSION=$(PATH=$SYSTEM /usr/bin/python3 setup.py --quiet --version 2>/dev/null | tail -n 1)
# 20.0.0.0rc1 and 20.0.0.dev5 sort before 20.0.0; debian/rules reverses this.
VERSION=$(echo "$VERSION" | sed -E 's/\.dev/~dev/; s/\.0(a|b|rc)/~\1/')
TREE=$SCRATCH/freezer-$VERSION
git ls-files -z | tar -cz --null -T - --transform "s,^,freezer-$VERSION/," \
    -f "$SCRATCH/freezer_$VERSION.orig.tar.gz"
tar -xf "$SCRATCH/freezer_$VERSION.orig.tar.gz" -C "$SCRATCH"
cp -r packaging/debian "$TREE"
# The version comes from git, so the change log is written here.
cat >"$TREE/debian/changelog" <<END
freezer ($VERSION-1) unstable; urgency=medium

  * $(git log -1 --format='Built from commit %h.')

 -- OpenStack <openstack-discuss@lists.openstack.org>  $(git log -1 --format=%cD)
END

say "dpkg-buildpackage: $VERSION"
# In an empty network namespace, so that the build cannot download anything. A container may
# refuse one without a user namespace, and the kernel refuses that in a chroot.
ISOLATED=(unshare --net)
PATH=$SYSTEM "${ISOLATED[@]}" true 2>/dev/null || ISOLATED+=(--map-root-user)
(cd "$TREE" && PATH=$SYSTEM "${ISOLATED[@]}" dpkg-buildpackage -us -uc) \
    >"$SCRATCH/build.log" 2>&1 || { cat "$SCRATCH/build.log"; die 'the build failed'; }
if PATH=$SYSTEM command -v lintian >/dev/null; then
    # There is no Debian bug that the upload closes.
    PATH=$SYSTEM lintian --allow-root --fail-on error,warning \
        --suppress-tags initial-upload-closes-no-bugs "$SCRATCH"/*.changes
fi
rm -rf dist/debian
mkdir -p dist/debian
cp "$SCRATCH"/freezer*_* dist/debian/
ls -l dist/debian/*"$VERSION"*
[ -z "$BUILD" ] || exit 0

say 'installation'
# With a suggested package that a test needs.
add install "$SCRATCH"/*.deb python3-cryptography
for package in freezer-agent freezer-scheduler; do
    /usr/bin/$package --version
    man -w $package
    [ -e /usr/share/bash-completion/completions/$package ] || die 'no bash completion'
    [ -e /usr/share/zsh/vendor-completions/_$package ] || die 'no zsh completion'
    [ -e /usr/share/fish/vendor_completions.d/$package.fish ] || die 'no fish completion'
done
for path in /etc/freezer /etc/freezer/scheduler /etc/freezer/scheduler/conf.d; do
    [ "$(stat -c '%U %a' $path)" = 'root 700' ] || die "$path is accessible to others"
done
UNIT=/lib/systemd/system/freezer-scheduler.service
[ -e $UNIT ] || die 'no systemd unit'
[ -z "$(find /etc/systemd/system -name freezer-scheduler.service)" ] || die 'the unit is enabled'
if command -v systemd-analyze >/dev/null; then
    # Also reports a missing ExecStart program and unknown settings.
    systemd-analyze verify $UNIT
fi
(cd / && /usr/bin/freezer-scheduler validate --no-api \
    /usr/share/doc/freezer-scheduler/examples/daily-s3.conf.example)

virtual_environment tests
# Without zstd and encryption in format age, whose packages Debian 12 does not have.
FREEZER_TEST_BIN=/usr/bin FREEZER_TEST_DISALLOW_SKIP=1 \
    python -m pytest -q -p no:cacheprovider -m 'package and not ceph' -k 'not zstd' \
    freezer/tests/functional/test_agent_s3.py freezer/tests/functional/test_scheduler.py
