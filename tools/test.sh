#!/bin/bash
# Runs every check, also in a fresh clone. Needs Python 3.11 or newer with venv, git and
# GNU tar. Arguments are passed to pytest: tools/test.sh -k upload
#
#   PYTHON   the Python for .venv (the system's)
#   CI=true  a skipped test is a failure; on Debian, as root, the system packages of the
#            tests are installed first
set -euo pipefail
cd "$(dirname "$0")/.."
. tools/lib.sh

STEP=setup
trap 'code=$?; [ $code -eq 0 ] || echo "tools/test.sh: FAILED: $STEP" >&2' EXIT
step() { STEP=$1; shift; say "$STEP"; "$@"; }

system_packages() {
    local absent
    absent=$(missing)
    [ -n "$absent" ] || return 0
    if [ "${CI:-}" = true ] && [ "$(id -u)" = 0 ] && [ -e /etc/debian_version ]; then
        say "apt-get install ${PACKAGES[*]}"
        apt-get update -q
        DEBIAN_FRONTEND=noninteractive \
            apt-get install -q -y --no-install-recommends "${PACKAGES[@]}"
    else
        say "Some tests will be skipped; missing programs: $absent"
        echo "On Debian: apt-get install --no-install-recommends ${PACKAGES[*]}"
    fi
}

docs() {
    if [ -e doc/source/conf.py ]; then
        sphinx-build -q -W -b html doc/source doc/build/html
        sphinx-build -q -W -b man doc/source doc/build/man
    else
        echo 'no doc/source/conf.py: nothing to build'
    fi
}

if [ "${CI:-}" = true ]; then
    export FREEZER_TEST_DISALLOW_SKIP=1
fi
system_packages
virtual_environment tests
step 'dependencies' python -m pip check
step 'ruff check' ruff check .
step 'ruff format' ruff format --check .
step 'mypy' mypy
step 'import contracts' lint-imports
step 'release notes' reno -q lint
step 'release notes, rendered' \
    sphinx-build -q -W -b html releasenotes/source releasenotes/build/html
step 'documentation' docs
say pytest
# exec, so that pytest's summary is the last line.
exec pytest -n 4 --dist loadgroup "$@"
