#!/bin/bash
# On a node: services.sh start|stop|kill|pause|resume agent|slurmd
node=$(hostname)
log=/run/node-log
pid=/run/$2.pid

start_agent() {
    rm -f /run/hipercow-slurm/agent/agent.sock # the one before left it, and it would look like this one's
    setsid hipercow-slurm agent --config /etc/hipercow-slurm/agent.toml >>"$log/agent@$node.log" 2>&1 &
    echo $! >"$pid"
    for _ in $(seq 300); do
        [ -S /run/hipercow-slurm/agent/agent.sock ] && return 0
        kill -0 "$(cat "$pid")" 2>/dev/null || return 1
        sleep 0.1
    done
    return 1
}

case "$1 $2" in
"start agent") start_agent ;;
"stop agent") kill "$(cat "$pid")" && while kill -0 "$(cat "$pid")" 2>/dev/null; do sleep 0.1; done; rm -f "$pid" ;;
"kill agent") kill -9 "$(cat "$pid")"; rm -f "$pid" ;;
"pause agent") kill -STOP "$(cat "$pid")" ;;
"resume agent") kill -CONT "$(cat "$pid")" ;;
*) echo "services.sh: $* is not known" >&2; exit 2 ;;
esac
