#!/usr/bin/env bash
# Train on several GPUs (or CPU processes) of one or more machines.
#   bash tools/dist_train.sh CONFIG PROCESSES [flags of tools/train.py]
# Several machines: set NNODES, NODE_RANK, MASTER_ADDR and PORT on each of them.
# SIGTERM, Ctrl-C, SIGUSR1 and SIGHUP reach the processes, which save a checkpoint; the
# script then ends with the usual code, 143, 130, 138 or 129. The launcher gives them 30 s.
# If a process dies, it ends the others and names that one.
set -euo pipefail
if [ $# -lt 2 ]; then
    echo "usage: bash tools/dist_train.sh CONFIG PROCESSES [flags of tools/train.py]" >&2
    exit 2
fi
config=$1
processes=$2
code=
launcher=
stop() {
    code=$1
    [ -n "$launcher" ] || exit "$code"
    kill "-$2" "$launcher" 2>/dev/null || true
}
trap 'stop 143 TERM' TERM
trap 'stop 130 INT' INT
trap 'stop 138 TERM' USR1 # the launcher itself does not know this one
trap 'stop 129 TERM' HUP
"${PYTHON:-python}" "$(dirname "$0")/launch.py" \
    --nnodes="${NNODES:-1}" \
    --node_rank="${NODE_RANK:-0}" \
    --master_addr="${MASTER_ADDR:-127.0.0.1}" \
    --master_port="${PORT:-29500}" \
    --nproc_per_node="$processes" \
    "$(dirname "$0")/train.py" "$config" --launcher pytorch "${@:3}" &
launcher=$!
status=0
wait "$launcher" || status=$?
while kill -0 "$launcher" 2>/dev/null; do # a signal has ended the wait, not the run
    status=0
    wait "$launcher" || status=$?
done
exit "${code:-$status}"
