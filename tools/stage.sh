#!/bin/sh
# stage.sh FOLDER: copies what git knows or would add (uncommitted changes included) to a new folder.
set -eu
cd "$(dirname "$0")/.."
rm -rf "$1"
mkdir -p "$1"
git ls-files -z --cached --others --exclude-standard | xargs -0 sh -c \
    'folder=$1; shift; for file; do [ ! -e "$file" ] || cp -P --parents "$file" "$folder"; done' sh "$1"
