#!/usr/bin/env bash
# Test on several GPUs (or CPU processes) of one or more machines.
#   bash tools/dist_test.sh CONFIG CHECKPOINT PROCESSES [flags of tools/test.py]
# Several machines: set NNODES, NODE_RANK, MASTER_ADDR and PORT on each of them.
set -euo pipefail
if [ $# -lt 3 ]; then
    echo "usage: bash tools/dist_test.sh CONFIG CHECKPOINT PROCESSES [flags]" >&2
    exit 2
fi
config=$1
checkpoint=$2
processes=$3
exec "${PYTHON:-python}" -m torch.distributed.run \
    --nnodes="${NNODES:-1}" \
    --node_rank="${NODE_RANK:-0}" \
    --master_addr="${MASTER_ADDR:-127.0.0.1}" \
    --master_port="${PORT:-29500}" \
    --nproc_per_node="$processes" \
    "$(dirname "$0")/test.py" "$config" "$checkpoint" --launcher pytorch "${@:4}"
