#!/bin/bash
# Builds the sdist, and the wheel from it; installs the wheel in separate virtual
# environments, with the declared minimum of every dependency and with the newest; and runs
# the tests marked "package" with each: backup, increment and restore on a real S3 server
# and on files, encrypted, and from a schedule. Prints size and start-up time.
#
#   tools/package.sh                  takes a few minutes; writes the packages to dist/
#   tools/package.sh --build          only builds and measures
#   tools/package.sh --only oldest    or newest
#
#   PYTHON   the Python for the virtual environments (the system's)
#   TMPDIR   parent of the temporary directory (/tmp)
set -euo pipefail
cd "$(dirname "$0")/.."
. tools/lib.sh

ONLY='oldest newest' BUILD=
while [ $# -gt 0 ]; do
    case $1 in
        --build) BUILD=yes; shift ;;
        --only) ONLY=${2:?--only needs oldest or newest}; shift 2 ;;
        *) die "unknown option $1; see the first lines of tools/package.sh" ;;
    esac
done
for each in $ONLY; do
    [ "$each" = oldest ] || [ "$each" = newest ] || die "--only $each: must be oldest or newest"
done

EXTRAS=zstd,encryption,crt,blake3,mount,ssh,metrics,scheduler,scheduler-api,coordination,openstack
SCRATCH=$(mktemp -d "${TMPDIR:-/tmp}/freezer-package.XXXXXX")
trap 'rm -rf "$SCRATCH"' EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM

say 'tools: build, uv'
"$PYTHON" -m venv "$SCRATCH/tools"
"$SCRATCH/tools/bin/python" -m pip install -q --disable-pip-version-check build uv
UV=$SCRATCH/tools/bin/uv

say 'sdist, and the wheel from it'
PATH=$SCRATCH/tools/bin:$PATH "$SCRATCH/tools/bin/python" -m build -q --installer uv \
    -o "$SCRATCH/dist" . >"$SCRATCH/build.log" 2>&1 || { cat "$SCRATCH/build.log"; die 'the build failed'; }
mkdir -p dist
cp "$SCRATCH"/dist/* dist/
WHEEL=$(echo "$SCRATCH"/dist/*.whl)
ls -l "$SCRATCH/dist"

# The dependencies that the wheel declares, so that uv treats them as direct.
"$SCRATCH/tools/bin/python" - "$WHEEL" $EXTRAS >"$SCRATCH/needs" <<'END'
import email, sys, zipfile
from packaging.requirements import Requirement

wheel, extras = sys.argv[1:]
with zipfile.ZipFile(wheel) as archive:
    names = archive.namelist()
    (name,) = (n for n in names if n.endswith('.dist-info/METADATA'))
    metadata = email.message_from_bytes(archive.read(name))
inside = [n for n in names if n.startswith('freezer/tests')]
if inside or 'freezer/storage/object_backups/upload.py' not in names:
    sys.exit(f'{wheel}: contains tests, or lacks modules')
for each in map(Requirement, metadata.get_all('Requires-Dist')):
    for extra in ('', *extras.split(',')):
        if each.marker is None or each.marker.evaluate({'extra': extra}):
            each.marker = None
            print(each)
            break
END

installed() {  # creates a virtual environment with the wheel: which, extras
    local which=$1 extras=$2 resolution
    local where=$SCRATCH/$which$extras
    resolution=$([ "$which" = oldest ] && echo lowest-direct || echo highest)
    "$UV" venv -q -p "$PYTHON" "$where"
    if [ -n "$extras" ]; then
        "$UV" pip compile -q -p "$where/bin/python" --resolution "$resolution" \
            --no-header --no-annotate "$SCRATCH/needs" -o "$where/versions"
        "$UV" pip install -q -p "$where/bin/python" -c "$where/versions" "$WHEEL[$extras]"
    else
        "$UV" pip install -q -p "$where/bin/python" "$WHEEL"
    fi
    "$UV" pip check -q -p "$where/bin/python"
}

say 'size and start-up, without extras'
installed newest ''
du -sm "$SCRATCH"/newest/lib/python*/site-packages | awk '{ print $1 " MiB installed" }'
"$SCRATCH/newest/bin/python" - "$SCRATCH/newest/bin/freezer-agent" <<'END'
import subprocess, sys, time

# The first run also writes the bytecode.
for what in (['--version'], ['--help']):
    times = []
    for _ in range(6):
        begin = time.perf_counter()
        subprocess.run([sys.argv[1], *what], stdout=subprocess.DEVNULL, check=True)
        times.append(time.perf_counter() - begin)
    print(f'freezer-agent {what[0]}: {min(times[1:]):.2f} s, the first {times[0]:.2f} s')
END
[ -z "$BUILD" ] || exit 0

virtual_environment tests
for which in $ONLY; do
    installed "$which" $EXTRAS
    say "$which: $(grep -cv '^ *#' "$SCRATCH/$which$EXTRAS/versions") packages"
    grep -E "^($(sed 's/[^A-Za-z0-9._-].*//; s/[._]/[-._]/g' "$SCRATCH/needs" | paste -sd '|'))=" \
        -i "$SCRATCH/$which$EXTRAS/versions"
    FREEZER_TEST_BIN=$SCRATCH/$which$EXTRAS/bin FREEZER_TEST_DISALLOW_SKIP=1 \
        python -m pytest -q -p no:cacheprovider -m 'package and not ceph' freezer/tests/functional
done
