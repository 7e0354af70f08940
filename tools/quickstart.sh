#!/bin/bash
# Demonstrates a backup and a restore: runs freezer-agent against a real S3 server on this
# machine. Needs Python 3.11 or newer with venv, git, and GNU tar; installs the rest into
# .venv. Changes nothing outside .venv and a temporary directory, which it removes at the
# end. Does not touch your ~/.freezer: the agent runs with a separate HOME.
#
#   PYTHON   the Python for .venv (the system's)
#   TMPDIR   parent of the temporary directory (/tmp)
set -euo pipefail
cd "$(dirname "$0")/.."
. tools/lib.sh

CHILDREN=()
PORTS=()
SCRATCH=
STEP='checking for programs'

clean_up() {
    local code=$? port
    trap '' INT TERM HUP
    if [ ${#CHILDREN[@]} -gt 0 ]; then
        # SIGKILL: the data is deleted anyway, and a clean shutdown takes 15 s.
        kill -KILL "${CHILDREN[@]}" 2>/dev/null || :
        wait "${CHILDREN[@]}" 2>/dev/null || :
    fi
    # The server leaves these sockets behind.
    for port in "${PORTS[@]}"; do
        rm -f /tmp/seaweedfs-*-grpc-"$((port + 10000))".sock
    done
    if [ -n "$SCRATCH" ]; then rm -rf "$SCRATCH"; fi
    if [ $code -ne 0 ]; then
        printf '\ntools/quickstart.sh: FAILED (%d) while %s\n' $code "$STEP" >&2
    fi
    exit $code
}
trap clean_up EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM

for program in git tar diff find; do
    command -v $program >/dev/null || die "$program is required and not installed"
done
# The agent tries the same names to find GNU tar.
for program in gnutar gtar tar; do
    if "$program" --version 2>/dev/null | grep -q 'GNU tar'; then break; fi
    [ $program != tar ] || die 'GNU tar is required; tar is a different program'
done
STEP='installing into .venv'
virtual_environment agent

# -- A clean environment ----------------------------------------------------------------

# Variables that a user may have set for other programs would change the demonstration.
for variable in ${!OS_@} ${!AWS_@} ${!WEED_@} TAR_OPTIONS ALL_PROXY HTTP_PROXY \
    HTTPS_PROXY all_proxy http_proxy https_proxy; do
    unset "$variable"
done
REPOSITORY=$PWD
SCRATCH=$(mktemp -d "${TMPDIR:-/tmp}/freezer-quickstart.XXXXXX")
export HOME=$SCRATCH TMPDIR=$SCRATCH TZ=UTC
cd "$SCRATCH"
mkdir log server server/master server/data server/filer

# -- An S3 server -----------------------------------------------------------------------

ACCESS_KEY=quickstart
SECRET_KEY=$(python -c 'import secrets; print(secrets.token_hex(20))')

choose_ports() {  # four free ports; gRPC uses the ports 10000 above them
    python - <<'PYTHON'
import itertools, random, socket

def is_free(port):
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(('', port))
        except OSError:
            return False
    return True

# Below the kernel's range for outgoing connections.
candidates = random.sample(range(11000, 22000), 1000)
usable = (p for p in candidates if is_free(p) and is_free(p + 10000))
print(*itertools.islice(usable, 4), sep='\n')
PYTHON
}

start_weed() {  # starts one of the server's three processes
    local what=$1
    shift
    # In its own process group (-m): Ctrl-C must not stop the server before the agent has
    # cleaned up.
    set -m
    (
        cd server
        exec weed -logtostderr "$what" -ip=127.0.0.1 -ip.bind=127.0.0.1 "$@"
    ) </dev/null >"log/$what" 2>&1 &
    CHILDREN+=($!)
    set +m
}

wait_until() {  # waits until a URL returns JSON with a true value at this path of keys
    python - "$@" <<'PYTHON' &
import json, sys, time, urllib.error, urllib.request

url, *keys = sys.argv[1:]
deadline = time.monotonic() + 60
while time.monotonic() < deadline:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            found = json.load(answer)
        for key in keys:
            found = found[key]
        if found:
            sys.exit(0)
    except urllib.error.HTTPError as error:
        if not keys and error.code == 403:  # S3, without credentials
            sys.exit(0)
    except (OSError, ValueError, KeyError, TypeError):
        pass
    time.sleep(0.1)
sys.exit(1)
PYTHON
    # In the background, because a signal interrupts "wait" at once.
    local waiter=$! process
    CHILDREN+=("$waiter")
    wait "$waiter" || server_failed
    unset 'CHILDREN[-1]'
    for process in "${CHILDREN[@]}"; do
        kill -0 "$process" 2>/dev/null || server_failed
    done
}

server_failed() {
    tail -n 15 log/* >&2
    die 'the S3 server did not start'
}

start_server() {
    local master volume filer s3
    mapfile -t PORTS < <(choose_ports)
    [ ${#PORTS[@]} = 4 ] || die 'no free ports'
    master=${PORTS[0]} volume=${PORTS[1]} filer=${PORTS[2]} s3=${PORTS[3]}
    cat >server/s3.json <<JSON
{"identities": [{
    "name": "quickstart",
    "credentials": [{"accessKey": "$ACCESS_KEY", "secretKey": "$SECRET_KEY"}],
    "actions": ["Admin"]
}]}
JSON
    # Three processes, one after the other: the second waits 5 s if the first is not ready.
    start_weed master -port="$master" -mdir=master -telemetry=false \
        -raftHashicorp -electionTimeout=200ms -heartbeatInterval=50ms \
        -volumeSizeLimitMB=64
    wait_until "http://127.0.0.1:$master/cluster/status" IsLeader
    start_weed volume -master="127.0.0.1:$master" -port="$volume" -dir=data -max=200
    # Iceberg and Lance would listen on fixed ports.
    start_weed filer -master="127.0.0.1:$master" -port="$filer" -defaultStoreDir=filer \
        -localSocket=filer.sock -s3 -s3.port="$s3" -s3.config=s3.json \
        -s3.localSocket=s3.sock -s3.port.iceberg=0 -s3.port.lance=0
    # S3 answers before the volume server is ready, and the first PUT would wait.
    wait_until "http://127.0.0.1:$master/dir/status" Topology DataCenters
    ENDPOINT=http://127.0.0.1:$s3
    wait_until "$ENDPOINT/"
}

# -- The demonstration ------------------------------------------------------------------

if [ -t 1 ]; then BOLD=$'\e[1m' PLAIN=$'\e[0m'; else BOLD='' PLAIN=''; fi

step() { STEP=$1; say "$1"; }
typed() {  # prints a command as a user would type it, and runs it
    local line="\$ $1" words=("${@:2}") index next
    for index in "${!words[@]}"; do
        next=${words[index]}
        if [[ $next = --* ]]; then
            # Keep an option and its value on one line.
            if (( ${#line} + ${#next} + $(value_length "${words[index + 1]:-}") > 76 ))
            then
                printf '%s%s \\%s\n' "$BOLD" "$line" "$PLAIN"
                line='     '
            fi
        fi
        line+=" $next"
    done
    printf '%s%s%s\n' "$BOLD" "$line" "$PLAIN"
    "$@"
}
value_length() { if [[ $1 != --* ]]; then echo $((${#1} + 1)); else echo 0; fi; }

make_tree() {
    mkdir -p documents/letters/2026 documents/pictures documents/empty
    printf 'Dear reader,\n' >documents/letters/2026/first.txt
    printf 'To be deleted.\n' >documents/letters/draft.txt
    head -c 20000000 /dev/urandom >documents/pictures/sunset.raw
    ln documents/pictures/sunset.raw documents/pictures/'the same sunset.raw'
    ln -s letters/2026/first.txt documents/newest
    printf '#!/bin/sh\necho hello\n' >documents/run.sh
    chmod 750 documents/run.sh
    chmod 600 documents/letters/2026/first.txt
    touch -d '2001-02-03 04:05:06.789' documents/letters/2026/first.txt
}

change_tree() {
    printf 'Dear reader,\n\nall is well.\n' >documents/letters/2026/first.txt
    rm documents/letters/draft.txt
    mv documents/letters/2026 documents/letters/answered
    mkdir documents/music
    printf 'la la la\n' >documents/music/song.txt
    ln -sfn music/song.txt documents/newest
}

listing() {  # type, mode, owner, links, size of files, time, target of links, name
    (cd "$1" && find . \( -type f -printf '%y %m %U:%G %n %s %T@ %p\n' \) -o \
        -printf '%y %m %U:%G - - %T@ %l %p\n' | LC_ALL=C sort -k 7)
}

compare() {  # every byte, mode, owner, time, link and name
    diff -r --no-dereference "$1" "$2" ||
        die "$2 differs from the source"
    diff <(listing "$1") <(listing "$2") ||
        die "$2 differs from the source in modes, owners, times or links"
    printf '%s equals %s, byte for byte: %s names, with modes, owners, times and links.\n' \
        "$2" "$1" "$(listing "$2" | wc -l)"
}

backup() {
    typed freezer-agent --action backup --storage s3 --container quickstart/backups \
        --backup-name documents --path-to-backup documents --incremental \
        --metadata-out result.json
    python -c 'import json; r = json.load(open("result.json"))
print("Stored level", r["curr_backup_level"], "- warnings:", r["warnings"])'
}

restore() {
    typed freezer-agent --action restore --storage s3 --container quickstart/backups \
        --backup-name documents "$@"
}

# Before the server starts, which takes seconds: the next increment repeats files younger
# than two seconds, and the demonstration shows that an increment is small.
make_tree

step 'starting an S3 server (SeaweedFS) with new keys'
start_server
export ACCESS_KEY SECRET_KEY ENDPOINT
# Long retries are for distant stores; this one answers at once or has failed.
export OS_S3__RETRY_BUDGET=30
printf '%s$ export ACCESS_KEY=%s SECRET_KEY=… ENDPOINT=%s%s\n' \
    "$BOLD" "$ACCESS_KEY" "$ENDPOINT" "$PLAIN"

step 'backing up a small tree of files'
typed find documents
cp -a documents original
backup
DATE=$(date -u +%Y-%m-%dT%H:%M:%SZ)
sleep 1  # dates have whole seconds

step 'editing a file, deleting one, renaming a directory, adding a new one'
change_tree
typed find documents
step 'backing up the changes'
backup

step 'listing the backups: the increment has a few kilobytes'
typed freezer-agent --action info --storage s3 --container quickstart/backups

step 'restoring the newest state'
restore --restore-abs-path newest
compare documents newest

step 'restoring the state before the changes'
restore --restore-abs-path earlier --restore-from-date "$DATE"
compare original earlier

say 'Done'
cat <<END
The agent backed up a directory to S3, then only the changes in it, and restored both
states. Every byte, mode, owner, time and link is correct. The S3 server and all files of
this run will be removed now.

  Your own files and bucket   $REPOSITORY/doc/source/user/stores.rst
  Older states, partial ones  $REPOSITORY/doc/source/user/restore.rst
  Coming from Freezer 19      $REPOSITORY/doc/source/user/from-freezer-19.rst

The agent is $REPOSITORY/.venv/bin/freezer-agent; --help lists its options.
END
