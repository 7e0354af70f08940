#!/bin/bash
# Runs the fault catalogue and prints one table: number, fault, expected result, and
# whether it passed. Arguments are passed to pytest: tools/faults.sh -k test_12
#
#   FREEZER_CHAOS_SEED, FREEZER_CHAOS_RUNS   of the run under random faults
#   PYTHON   the Python to make .venv with (the system's)
set -euo pipefail
cd "$(dirname "$0")/.."
. tools/lib.sh
virtual_environment tests
absent=$(missing)
[ -z "$absent" ] || say "Some will be skipped, for want of: $absent"
exec pytest -q -n 2 --dist loadgroup freezer/tests/faults --catalogue "$@"
