#!/bin/sh
# Becomes User-Mode Linux: user-mode.sh SCRIPTS LINUX ARGUMENT... On processors with AMX it gets what it lacks (xstate.c).
# Its disk is a file that is there again when it is switched on next.
set -eu
scripts=$1
shift
mkdir -p /run/uml
[ -e /run/uml/disk ] || truncate -s 64M /run/uml/disk
if grep -q '^flags.* amx_tile' /proc/cpuinfo; then
    gcc -O1 -shared -fPIC -o /run/uml/xstate.so "$scripts/xstate.c"
    export LD_PRELOAD=/run/uml/xstate.so
fi
exec "$@"
