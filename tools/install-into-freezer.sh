#!/bin/bash
# Replaces the S3 driver of an installed Freezer 19.0.0 by this one.
#
#   tools/install-into-freezer.sh SITE_PACKAGES
#   tools/install-into-freezer.sh --undo SITE_PACKAGES
#   tools/install-into-freezer.sh --list
#
# SITE_PACKAGES is the directory that contains freezer/. Replaced files of Freezer are kept
# as NAME.freezer19, and --undo restores them. Running it again updates the driver.
set -euo pipefail
HERE=$(cd "$(dirname "$0")/.." && pwd)
. "$HERE/tools/lib.sh"

# The driver and its imports that Freezer 19 does not have, or has with other content. A
# test compares this list with the imports.
FILES=(
    freezer/storage/s3.py
    freezer/storage/_s3/*.py
    freezer/storage/_s3/*/*.py
    freezer/storage/backup.py
    freezer/storage/check.py
    freezer/storage/claims.py
    freezer/storage/digests.py
    freezer/storage/exceptions.py
    freezer/storage/housekeeping.py
    freezer/storage/http/*.py
    freezer/storage/index_file.py
    freezer/storage/journal.py
    freezer/storage/layout.py
    freezer/storage/leftovers.py
    freezer/storage/manifest.py
    freezer/storage/object_backups/*.py
    freezer/storage/objects.py
    freezer/storage/retry.py
    freezer/storage/survey.py
    freezer/utils/blocks.py
    freezer/utils/http_dates.py
    freezer/utils/human.py
    freezer/utils/lazy.py
    freezer/utils/plugin_options.py
    freezer/utils/process.py
    freezer/utils/progress.py
    freezer/utils/ranges.py
    freezer/utils/rate.py
    freezer/utils/startup.py
    freezer/utils/surroundings.py
    freezer/utils/text.py
    freezer/utils/trusted.py
    freezer/utils/types.py
)
REQUIRED=(botocore oslo.config six)
RECORD=freezer/storage/s3-driver.installed
SUFFIX=.freezer19

usage() { die 'usage: tools/install-into-freezer.sh [--undo] SITE_PACKAGES | --list'; }

list() {  # relative paths, one per line
    (cd "$HERE" && printf '%s\n' ${FILES[@]})
}

check() {  # fails unless the target is Freezer 19.0.0
    local found
    [ -f "$TARGET/freezer/storage/physical.py" ] ||
        die "$TARGET: no freezer/storage/physical.py; pass the directory in which freezer is installed"
    found=$(cat "$TARGET"/freezer-*.dist-info/METADATA "$TARGET"/freezer-*.egg-info/PKG-INFO \
        2>/dev/null | sed -n 's/^Version: *//p' | head -n 1) || true
    [ "$found" = 19.0.0 ] ||
        die "$TARGET: found freezer ${found:-of unknown version}; 19.0.0 is required"
    [[ ! $TARGET =~ python3\.([0-9]+) ]] || [ "${BASH_REMATCH[1]}" -ge 11 ] ||
        die "$TARGET: belongs to Python 3.${BASH_REMATCH[1]}; the driver needs 3.11"
    [ -w "$TARGET/freezer/storage" ] || die "$TARGET/freezer/storage: no write permission"
}

plan() {  # "replaced PATH" or "added PATH", one per line
    local file
    list | while read -r file; do
        [ -e "$TARGET/$file" ] && echo "replaced $file" || echo "added $file"
    done
}

# Both functions can be interrupted at any point, and --undo still restores Freezer's files:
# the record is written first and removed last, and a replaced file is never missing.

install_files() {
    local how file
    plan >"$TARGET/$RECORD"
    while read -r how file; do
        if [ "$how" = replaced ]; then
            cp -p "$TARGET/$file" "$TARGET/$file$SUFFIX.new"
            mv "$TARGET/$file$SUFFIX.new" "$TARGET/$file$SUFFIX"
        fi
        install -d -m 755 "$(dirname "$TARGET/$file")"
        install -m 644 "$HERE/$file" "$TARGET/$file.new"
        mv "$TARGET/$file.new" "$TARGET/$file"
        echo "$how $file"
    done <"$TARGET/$RECORD"
}

undo() {
    local how file
    while read -r how file; do
        rm -f "$TARGET/$file.new" "$TARGET/$file$SUFFIX.new"
        if [ "$how" = added ]; then
            rm -f "$TARGET/$file"
        elif [ -e "$TARGET/$file$SUFFIX" ]; then
            mv "$TARGET/$file$SUFFIX" "$TARGET/$file"
        fi
    done <"$TARGET/$RECORD"
    # A remaining directory would still be a package.
    rm -rf "$TARGET"/freezer/storage/{_s3,http,object_backups}
    rm "$TARGET/$RECORD"
}

requirements() {
    local name
    for name in "${REQUIRED[@]}"; do
        sed -n "s/^\($name[^ ]*\).*/  \1/p" "$HERE/requirements.txt"
    done
}

UNDO=
case ${1:-} in
    --list) list; exit ;;
    --undo) UNDO=yes; shift ;;
esac
[ $# = 1 ] && [ -n "$1" ] && [[ $1 != -* ]] || usage
TARGET=$(cd "$1" 2>/dev/null && pwd) || die "$1: not a directory"
check
if [ -n "$UNDO" ]; then
    [ -e "$TARGET/$RECORD" ] || die "$TARGET: the driver is not installed there"
    undo
    echo "$TARGET: restored Freezer's own S3 driver"
    exit
fi
[ ! -e "$TARGET/$RECORD" ] || undo
install_files
cat <<END
$TARGET: the driver is installed.
Replaced files are kept beside the new ones, with the suffix $SUFFIX.
The driver needs Python 3.11 or newer and these packages:
$(requirements)
To go back: tools/install-into-freezer.sh --undo $TARGET
END
