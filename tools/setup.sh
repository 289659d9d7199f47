#!/bin/sh
# Brings a fresh Debian 12 to where `make demo` and `make test` run. Safe to run again; a second run takes a second.
# setup.sh NAME...: with the packages of tools/apt-packages-NAME.txt too.
set -eu
cd "$(dirname "$0")/.."

lists="tools/apt-packages.txt"
for name in "$@"; do
    lists="$lists tools/apt-packages-$name.txt"
done

missing=""
# shellcheck disable=SC2086
for package in $(grep -hv '^#' $lists); do
    dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing="$missing $package"
done
if [ -n "$missing" ]; then
    echo "setup: installing$missing"
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -q
    # The packages' own services are not wanted: the sandbox starts each daemon itself, in its own namespaces.
    policy=/usr/sbin/policy-rc.d
    if [ ! -e "$policy" ]; then
        printf '#!/bin/sh\nexit 101\n' >"$policy"
        chmod 755 "$policy"
        trap 'rm -f /usr/sbin/policy-rc.d' EXIT
    fi
    # shellcheck disable=SC2086
    apt-get install -y -q --no-install-recommends $missing
fi

# Debian's own Python: a virtual environment made from one under root's home could not be entered by other users.
stamp=.venv/.installed
if [ ! -e "$stamp" ] || [ requirements.lock -nt "$stamp" ] || [ pyproject.toml -nt "$stamp" ]; then
    echo "setup: installing Python packages"
    [ -x .venv/bin/python ] || /usr/bin/python3 -m venv .venv
    .venv/bin/python -m pip install -q --disable-pip-version-check --require-hashes -r requirements.lock
    .venv/bin/python -m pip install -q --disable-pip-version-check --no-deps -e .
    touch "$stamp"
fi

.venv/bin/python -m hipercow_slurm.krb5.build
make -s -C spank
