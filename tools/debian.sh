#!/bin/bash
# Builds packages for Debian of what git knows here, with packaging/debian and Debian's
# own libraries, and without the network; installs them; runs tests with the installed
# commands: chains, backups and restores on a real S3 server, and the scheduler. Removes
# them again, and whatever was installed for that. Debian 12 or newer, as root.
#
#   tools/debian.sh           some minutes; leaves the packages in dist/debian
#   tools/debian.sh --build   only builds; installs what that needs, and removes it again
#
#   TMPDIR   where the temporary directory goes (/tmp)
set -euo pipefail
cd "$(dirname "$0")/.."
. tools/lib.sh

BUILD=
case ${1:-} in
    '') ;;
    --build) BUILD=yes ;;
    *) die "what is $1? see the first lines of tools/debian.sh" ;;
esac
[ "$(id -u)" = 0 ] || die 'installing packages takes root'
[ -e /etc/debian_version ] || die 'this is not Debian'
for package in freezer-agent freezer-scheduler python3-freezer; do
    if dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null | grep -q .; then
        die "$package is installed, or its configuration is: this would remove it"
    fi
done
for path in /etc/freezer /var/lib/freezer-scheduler /run/freezer-scheduler; do
    [ ! -e $path ] || die "$path is there: this is not the machine to try it on"
done

SCRATCH=$(mktemp -d "${TMPDIR:-/tmp}/freezer-debian.XXXXXX")
# As the machine's owner has them, not pip or a Python of one's own.
SYSTEM=/usr/sbin:/usr/bin:/sbin:/bin
ADDED=()

clean_up() {
    local code=$?
    trap '' INT TERM HUP
    if [ ${#ADDED[@]} -gt 0 ]; then
        say "removing ${#ADDED[@]} packages"
        # dpkg refuses what something else has come to need, and says so.
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

add() {  # apt-get with these arguments; remembers what was not there before
    local options=(-q -y --no-install-recommends)
    mapfile -t -O ${#ADDED[@]} ADDED < <(
        apt-get -s "${options[@]}" "$@" | sed -n 's/^Inst \([^ ]*\) (.*/\1/p')
    DEBIAN_FRONTEND=noninteractive PATH=$SYSTEM \
        apt-get "${options[@]}" "$@" >"$SCRATCH/apt.log" 2>&1 ||
        { cat "$SCRATCH/apt.log"; die 'apt-get failed; apt-get update may help'; }
}

say 'what the build needs'
# Read from debian/control, where there is a tree with one.
mkdir "$SCRATCH/needs"
cp -r packaging/debian "$SCRATCH/needs"
add install dpkg-dev fakeroot
add build-dep "$SCRATCH/needs"

say 'the source'
VERSION=$(PATH=$SYSTEM /usr/bin/python3 setup.py --quiet --version 2>/dev/null | tail -n 1)
# 20.0.0.0rc1 and 20.0.0.dev5 come before 20.0.0; debian/rules has the way back.
VERSION=$(echo "$VERSION" | sed -E 's/\.dev/~dev/; s/\.0(a|b|rc)/~\1/')
TREE=$SCRATCH/freezer-$VERSION
git ls-files -z | tar -cz --null -T - --transform "s,^,freezer-$VERSION/," \
    -f "$SCRATCH/freezer_$VERSION.orig.tar.gz"
tar -xf "$SCRATCH/freezer_$VERSION.orig.tar.gz" -C "$SCRATCH"
cp -r packaging/debian "$TREE"
# The version is git's to say, so the change log is written here.
cat >"$TREE/debian/changelog" <<END
freezer ($VERSION-1) unstable; urgency=medium

  * $(git log -1 --format='Built of commit %h.')

 -- OpenStack <openstack-discuss@lists.openstack.org>  $(git log -1 --format=%cD)
END

say "dpkg-buildpackage: $VERSION"
# In a network of its own, which has nothing: what it would fetch it cannot.
(cd "$TREE" && PATH=$SYSTEM unshare --map-root-user --net dpkg-buildpackage -us -uc) \
    >"$SCRATCH/build.log" 2>&1 || { cat "$SCRATCH/build.log"; die 'it does not build'; }
if PATH=$SYSTEM command -v lintian >/dev/null; then
    # No bug of Debian's asks for it.
    PATH=$SYSTEM lintian --allow-root --fail-on error,warning \
        --suppress-tags initial-upload-closes-no-bugs "$SCRATCH"/*.changes
fi
rm -rf dist/debian
mkdir -p dist/debian
cp "$SCRATCH"/freezer*_* dist/debian/
ls -l dist/debian/*"$VERSION"*
[ -z "$BUILD" ] || exit 0

say 'installed'
add install "$SCRATCH"/*.deb
for package in freezer-agent freezer-scheduler; do
    /usr/bin/$package --version
    man -w $package
    [ -e /usr/share/bash-completion/completions/$package ] || die 'no completion for bash'
    [ -e /usr/share/zsh/vendor-completions/_$package ] || die 'no completion for zsh'
done
for path in /etc/freezer /etc/freezer/scheduler /etc/freezer/scheduler/conf.d; do
    [ "$(stat -c '%U %a' $path)" = 'root 700' ] || die "$path is not root's alone"
done
UNIT=/lib/systemd/system/freezer-scheduler.service
[ -e $UNIT ] || die 'no unit'
[ -z "$(find /etc/systemd/system -name freezer-scheduler.service)" ] || die 'it is enabled'
if command -v systemd-analyze >/dev/null; then
    # Also says that ExecStart is not there, or that a setting is not known.
    systemd-analyze verify $UNIT
fi
(cd / && /usr/bin/freezer-scheduler validate --no-api \
    /usr/share/doc/freezer-scheduler/examples/daily-s3.conf.example)

virtual_environment tests
# All but what takes packages that Debian 12 does not have: zstd, and encryption.
FREEZER_TEST_BIN=/usr/bin FREEZER_TEST_DISALLOW_SKIP=1 \
    python -m pytest -q -p no:cacheprovider -m 'package and not ceph' -k 'not zstd' \
    freezer/tests/functional/test_agent_s3.py freezer/tests/functional/test_scheduler.py
