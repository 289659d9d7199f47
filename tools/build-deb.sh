#!/bin/sh
# Builds the Debian packages of what this clone holds (uncommitted changes included) into dist/.
# DEB_VERSION=... gives them another version than the program's own.
set -eu
cd "$(dirname "$0")/.."

stage=build/deb/hipercow-slurm
rm -rf build/deb
mkdir -p dist
tools/stage.sh "$stage"
cp -r packaging/debian "$stage/debian"
.venv/bin/python tools/locked.py agent >"$stage/debian/locked-agent"
.venv/bin/python tools/locked.py postgres --without agent >"$stage/debian/locked-head"
version="${DEB_VERSION:-$(.venv/bin/python -c 'import hipercow_slurm; print(hipercow_slurm.__version__)')}"
cat >"$stage/debian/changelog" <<CHANGELOG
hipercow-slurm ($version) bookworm; urgency=medium

  * See NEWS.md.

 -- The hipercow-slurm developers <hipercow-slurm@example.org>  $(git log -1 --format=%aD 2>/dev/null || date -R)
CHANGELOG

(cd "$stage" && dpkg-buildpackage --build=binary --no-sign >../build.log 2>&1) || {
    tail -40 build/deb/build.log
    exit 1
}
rm -f dist/*.deb
mv build/deb/*.deb dist/
ls -1 dist/*.deb
