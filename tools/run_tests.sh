#!/usr/bin/env bash
# Set up .venv if needed and run the tests (under 10 minutes on two cores).
#
#   bash tools/run_tests.sh                    all but the three parts below
#   bash tools/run_tests.sh -m "not slow"      arguments go to pytest
#   bash tools/run_tests.sh --downstream       with mmdet and mmseg, installed first
#   bash tools/run_tests.sh --faults           runs that are killed, full disks ...
#   bash tools/run_tests.sh --docs             the commands of README and docs/
set -euo pipefail
cd "$(dirname "$0")/.."

part=()
case "${1:-}" in
--downstream | --faults | --docs)
    part=("tests/${1#--}")
    shift
    ;;
esac
if [ "${part[*]:-}" = tests/downstream ]; then
    bash tools/setup_env.sh --downstream
else
    bash tools/setup_env.sh
fi
cores=$(.venv/bin/python -c 'import os; print(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count())')
# One process a core, with one thread each: small tensors gain nothing from more.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
export MKL_NUM_THREADS=${MKL_NUM_THREADS:-$OMP_NUM_THREADS}
# Threads that spin while they wait make a shared machine many times slower.
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-PASSIVE}

echo "[tests] running pytest in $cores processes"
start=$SECONDS
status=0
.venv/bin/python -m pytest -n "$cores" --dist loadfile ${part[@]+"${part[@]}"} "$@" || status=$?
echo "[tests] finished in $((SECONDS - start)) s"
exit "$status"
