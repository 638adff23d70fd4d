#!/usr/bin/env bash
# Train on a Slurm cluster.
#   bash tools/slurm_train.sh PARTITION JOB_NAME CONFIG [flags of tools/train.py]
# GPUS (all), GPUS_PER_NODE, CPUS_PER_TASK and SRUN_ARGS change the allocation.
set -euo pipefail
if [ $# -lt 3 ]; then
    echo "usage: bash tools/slurm_train.sh PARTITION JOB_NAME CONFIG [flags]" >&2
    exit 2
fi
partition=$1
job=$2
config=$3
gpus=${GPUS:-8}
gpus_per_node=${GPUS_PER_NODE:-$((gpus < 8 ? gpus : 8))}
# SRUN_ARGS is split into words on purpose.
# shellcheck disable=SC2086
srun --partition="$partition" \
    --job-name="$job" \
    --gres="gpu:$gpus_per_node" \
    --ntasks="$gpus" \
    --ntasks-per-node="$gpus_per_node" \
    --cpus-per-task="${CPUS_PER_TASK:-8}" \
    --kill-on-bad-exit=1 \
    ${SRUN_ARGS:-} \
    "${PYTHON:-python}" -u "$(dirname "$0")/train.py" "$config" \
    --launcher slurm "${@:4}"
