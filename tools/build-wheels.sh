#!/bin/sh
# Builds both wheels of what this clone holds (uncommitted changes included) into dist/.
set -eu
cd "$(dirname "$0")/.."

tools/stage.sh build/wheel
mkdir -p dist
rm -f dist/*.whl
pip="$PWD/.venv/bin/pip --disable-pip-version-check"
(cd build/wheel && $pip wheel -q --no-deps -w ../../dist .)
(cd build/wheel && HIPERCOW_SLURM_BINDING=1 $pip wheel -q --no-deps -w ../../dist .)
ls -1 dist/*.whl
