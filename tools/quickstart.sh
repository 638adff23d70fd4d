#!/usr/bin/env bash
# Set up .venv if needed, then train, evaluate and picture a small tokenizer and three
# small generators on its codes.
#
#   bash tools/quickstart.sh                   20 minutes on two cores
#   bash tools/quickstart.sh --short           a few steps only, to see that it runs
#
# Arguments, and QUICKSTART_ARGS, go to tools/quickstart.py (see its --help).
set -euo pipefail
cd "$(dirname "$0")/.."

bash tools/setup_env.sh
cores=$(.venv/bin/python -c 'import os; print(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count())')
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$cores}
export MKL_NUM_THREADS=${MKL_NUM_THREADS:-$OMP_NUM_THREADS}
# Threads that spin long while they wait make a shared machine many times slower, threads
# that never do make a free one a third slower.
export GOMP_SPINCOUNT=${GOMP_SPINCOUNT:-10000}

start=$SECONDS
# QUICKSTART_ARGS is split into words on purpose.
# shellcheck disable=SC2086
.venv/bin/python tools/quickstart.py ${QUICKSTART_ARGS:-} "$@"
echo "[quickstart] finished in $((SECONDS - start)) s"
