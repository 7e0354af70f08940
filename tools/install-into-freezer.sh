#!/bin/bash
# Puts the S3 driver into an installed Freezer 19.0.0, in place of its own.
#
#   tools/install-into-freezer.sh SITE_PACKAGES
#   tools/install-into-freezer.sh --undo SITE_PACKAGES
#   tools/install-into-freezer.sh --list
#
# SITE_PACKAGES is the directory that has freezer/ in it. Files of Freezer's that are
# replaced are kept as NAME.freezer19, and --undo puts them back. Run again, it replaces
# what it had installed.
set -euo pipefail
HERE=$(cd "$(dirname "$0")/.." && pwd)
. "$HERE/tools/lib.sh"

# The driver and all it imports that Freezer 19 has not, or not with this content. A test
# compares this with the imports.
FILES=(
    freezer/storage/s3.py
    freezer/storage/_s3/*.py
    freezer/storage/check.py
    freezer/storage/details.py
    freezer/storage/exceptions.py
    freezer/storage/housekeeping.py
    freezer/storage/layout.py
    freezer/storage/manifest.py
    freezer/storage/manifested.py
    freezer/storage/verify.py
    freezer/utils/blocks.py
    freezer/utils/collection.py
    freezer/utils/plugin_options.py
    freezer/utils/process.py
    freezer/utils/progress.py
    freezer/utils/rate.py
    freezer/utils/text.py
    freezer/utils/types.py
)
REQUIRED=(botocore oslo.config six)
RECORD=freezer/storage/s3-driver.installed
SUFFIX=.freezer19

usage() { die 'usage: tools/install-into-freezer.sh [--undo] SITE_PACKAGES | --list'; }

list() {  # relative paths, one a line
    (cd "$HERE" && printf '%s\n' ${FILES[@]})
}

check() {  # that this is Freezer 19.0.0
    local found
    [ -f "$TARGET/freezer/storage/physical.py" ] ||
        die "$TARGET: there is no freezer/storage/physical.py: give the directory that freezer is installed in"
    found=$(cat "$TARGET"/freezer-*.dist-info/METADATA "$TARGET"/freezer-*.egg-info/PKG-INFO \
        2>/dev/null | sed -n 's/^Version: *//p' | head -n 1) || true
    [ "$found" = 19.0.0 ] ||
        die "$TARGET: has freezer ${found:-of no known version}, and 19.0.0 is needed"
    [[ ! $TARGET =~ python3\.([0-9]+) ]] || [ "${BASH_REMATCH[1]}" -ge 11 ] ||
        die "$TARGET: is of Python 3.${BASH_REMATCH[1]}, and the driver needs 3.11"
    [ -w "$TARGET/freezer/storage" ] || die "$TARGET/freezer/storage: may not be written"
}

plan() {  # "replaced PATH" or "added PATH", one a line
    local file
    list | while read -r file; do
        [ -e "$TARGET/$file" ] && echo "replaced $file" || echo "added $file"
    done
}

# Whatever they are stopped at, --undo brings back what was there: the record is written
# before anything is done and removed after all is undone, and a file that is replaced is
# never away.

install_files() {
    local how file
    plan >"$TARGET/$RECORD"
    install -d -m 755 "$TARGET/freezer/storage/_s3"
    while read -r how file; do
        if [ "$how" = replaced ]; then
            cp -p "$TARGET/$file" "$TARGET/$file$SUFFIX.new"
            mv "$TARGET/$file$SUFFIX.new" "$TARGET/$file$SUFFIX"
        fi
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
    # A directory that stays would still be a package.
    rm -rf "$TARGET/freezer/storage/_s3"
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
TARGET=$(cd "$1" 2>/dev/null && pwd) || die "$1: is no directory"
check
if [ -n "$UNDO" ]; then
    [ -e "$TARGET/$RECORD" ] || die "$TARGET: the driver is not installed there"
    undo
    echo "$TARGET: Freezer's own S3 driver is back"
    exit
fi
[ ! -e "$TARGET/$RECORD" ] || undo
install_files
cat <<END
$TARGET: the driver is installed.
What was replaced is kept beside it with $SUFFIX at the end of its name.
Its Python has to be 3.11 or newer, and needs
$(requirements)
To go back: tools/install-into-freezer.sh --undo $TARGET
END
