#!/bin/bash
# Runs the conformance suite on every S3 server, in every variant (path and virtual
# addressing, http and https, listings of version 1 and 2), with the oldest and the
# newest botocore; prints one table, and fails if a run failed.
#
#   tools/matrix.sh                   takes about half an hour on two processors
#   tools/matrix.sh --rst FILE        also writes the table to a file:
#                                     doc/source/reference/matrix.inc
#   tools/matrix.sh --only WORD       only the runs whose name contains this word:
#                                     newest, ceph, virtual, swift-https …
#
#   PYTHON   the Python for .venv and .venv-oldest (the system's)
#   JOBS     parallel runs (one per processor)
#   TMPDIR   parent of the temporary directory (/tmp)
set -euo pipefail
cd "$(dirname "$0")/.."
. tools/lib.sh

RST='' ONLY=''
while [ $# -gt 0 ]; do
    case $1 in
        --rst) RST=${2:?--rst needs a file}; shift 2 ;;
        --only) ONLY=${2:?--only needs a word}; shift 2 ;;
        *) die "unknown option $1; see the first lines of tools/matrix.sh" ;;
    esac
done

ABSENT=$(missing)
[ -z "$ABSENT" ] || die "not installed: $ABSENT
On Debian: apt-get install --no-install-recommends ${PACKAGES[*]}"
virtual_environment oldest
virtual_environment tests

SCRATCH=$(mktemp -d "${TMPDIR:-/tmp}/freezer-matrix.XXXXXX")
clean_up() {
    local code=$? job
    trap '' INT TERM HUP
    for job in $(jobs -p); do kill -INT -- "-$job" 2>/dev/null || :; done
    wait
    rm -rf "$SCRATCH"
    exit $code
}
trap clean_up EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM

conform() {  # one run of the suite, in the background
    local environment=$1 server=$2 variant=$3 name=$1-$2-$3
    local python=.venv/bin/python
    [ "$environment" = newest ] || python=.venv-oldest/bin/python
    FREEZER_TEST_VARIANT=$variant FREEZER_TEST_DISALLOW_SKIP=1 FREEZER_TEST_THOROUGH=1 \
        "$python" -m pytest -q -p no:cacheprovider -p no:xdist \
        --junitxml "$SCRATCH/$name.xml" -m "$server" -k 'not Variants' \
        --ignore freezer/tests/conformance/test_check_faults.py freezer/tests/conformance \
        >"$SCRATCH/$name.log" 2>&1 &&
        echo "$name: passed" ||
        { echo "$name: FAILED"; grep -E '^(FAILED|ERROR) ' "$SCRATCH/$name.log" ||
            tail -n 15 "$SCRATCH/$name.log"; }
}

say 'running the suite'
for environment in oldest newest; do
    for run in $(python -m freezer.tests.matrix runs); do
        name=$environment-$run
        [[ $name == *"$ONLY"* ]] || continue
        while [ "$(jobs -rp | wc -l)" -ge "${JOBS:-$(nproc)}" ]; do wait -n || :; done
        # In its own process group, so that clean_up can stop the whole run.
        set -m
        conform "$environment" "${run%%-*}" "${run#*-}" </dev/null &
        set +m
    done
done
wait

say 'results'
python -m freezer.tests.matrix table "$SCRATCH" ${RST:+"$RST"}
