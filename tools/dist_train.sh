#!/usr/bin/env bash
# Train on several GPUs (or CPU processes) of one or more machines.
#   bash tools/dist_train.sh CONFIG PROCESSES [flags of tools/train.py]
# Several machines: set NNODES, NODE_RANK, MASTER_ADDR and PORT on each of them.
set -euo pipefail
if [ $# -lt 2 ]; then
    echo "usage: bash tools/dist_train.sh CONFIG PROCESSES [flags of tools/train.py]" >&2
    exit 2
fi
config=$1
processes=$2
"${PYTHON:-python}" -m torch.distributed.run \
    --nnodes="${NNODES:-1}" \
    --node_rank="${NODE_RANK:-0}" \
    --master_addr="${MASTER_ADDR:-127.0.0.1}" \
    --master_port="${PORT:-29500}" \
    --nproc_per_node="$processes" \
    "$(dirname "$0")/train.py" "$config" --launcher pytorch "${@:3}"
