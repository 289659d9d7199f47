#!/bin/sh
# Becomes User-Mode Linux: user-mode.sh SCRIPTS LINUX ARGUMENT... On processors with AMX it gets what it lacks (xstate.c).
set -eu
scripts=$1
shift
if grep -q '^flags.* amx_tile' /proc/cpuinfo; then
    mkdir -p /run/uml
    gcc -O1 -shared -fPIC -o /run/uml/xstate.so "$scripts/xstate.c"
    export LD_PRELOAD=/run/uml/xstate.so
fi
exec "$@"
