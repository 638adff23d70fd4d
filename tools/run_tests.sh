#!/usr/bin/env bash
# Set up .venv if needed and run the tests.
#
#   bash tools/run_tests.sh                    all but the parts below
#   bash tools/run_tests.sh -m "not slow"      arguments go to pytest
#   bash tools/run_tests.sh --downstream       with mmdet and mmseg, installed first
#   bash tools/run_tests.sh --faults           runs that are killed, full disks ...
#   bash tools/run_tests.sh --docs             the commands of README and docs/
#   bash tools/run_tests.sh --stack 2024       what depends on the installed packages, in
#                                              another environment: 2024, newest or onedl
set -euo pipefail
cd "$(dirname "$0")/.."

# What fails first when a package changes: imports, configs, the tools, training and
# resuming, compiling, generation, evaluation, the page.
stack_tests=(
    tests/test_utils/test_compat.py
    tests/test_utils/test_checkpoint_file.py
    tests/test_configs.py
    tests/test_engine/test_plain_classifier.py
    tests/test_engine/test_run_test.py
    tests/test_engine/test_speed_hook.py
    tests/test_models/test_generators/test_raster_decoding.py
    tests/test_models/test_generators/test_randar.py
    tests/test_evaluation/test_frechet_distance.py
    tests/test_evaluation/test_generation_frechet.py
    tests/test_evaluation/test_probe.py
    tests/test_evaluation/test_stage1_metrics.py
    tests/test_tools/test_extract_codes.py
    tests/test_tools/test_extract_features.py
    tests/test_tools/test_generate.py
    tests/test_tools/test_train_flags.py
    tests/test_visualization/test_backends.py
    tests/test_cli
    tests/web
)
stack=default
setup=()
part=()
case "${1:-}" in
--downstream | --faults | --docs)
    part=("tests/${1#--}")
    [ "$1" = --downstream ] && setup=(--downstream)
    shift
    ;;
--stack)
    stack=${2:-}
    setup=(--stack "$stack")
    part=("${stack_tests[@]}")
    shift $(($# > 1 ? 2 : 1))
    ;;
esac
bash tools/setup_env.sh ${setup[@]+"${setup[@]}"}
venv=.venv
[ "$stack" = default ] || venv=.venv-$stack
cores=$("$venv/bin/python" -c 'import os; print(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count())')
# One process a core, with one thread each: small tensors gain nothing from more.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
export MKL_NUM_THREADS=${MKL_NUM_THREADS:-$OMP_NUM_THREADS}
# Threads that spin while they wait make a shared machine many times slower.
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-PASSIVE}

# Tests go to another process where that one has none left.
echo "[tests] running pytest in $cores processes"
start=$SECONDS
status=0
"$venv/bin/python" -m pytest -n "$cores" --dist worksteal ${part[@]+"${part[@]}"} "$@" || status=$?
echo "[tests] finished in $((SECONDS - start)) s"
exit "$status"
