#!/bin/sh
# Builds the documentation's site in build/site; its tools live in an environment of their own.
set -eu
cd "$(dirname "$0")/.."

tools=build/docs-tools
if [ ! -e "$tools/.installed" ] || [ requirements-docs.lock -nt "$tools/.installed" ]; then
    echo "docs: installing mkdocs"
    rm -rf "$tools"
    /usr/bin/python3 -m venv "$tools"
    "$tools/bin/pip" install -q --disable-pip-version-check --require-hashes -r requirements-docs.lock
    touch "$tools/.installed"
fi
NO_MKDOCS_2_WARNING=1 "$tools/bin/mkdocs" build --quiet --clean
echo "build/site/index.html"
