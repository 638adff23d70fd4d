# shellcheck shell=bash
# Sourced by quickstart.sh and emoji.sh: the threads, then tools/NAME.py in .venv.

one_command() { # one_command NAME ARGUMENTS...
    local name=$1 start=$SECONDS cores
    shift
    cores=$(.venv/bin/python -c 'import os; print(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count())')
    export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$cores}
    export MKL_NUM_THREADS=${MKL_NUM_THREADS:-$OMP_NUM_THREADS}
    # Threads that spin long while they wait make a shared machine many times slower,
    # threads that never do make a free one a third slower.
    export GOMP_SPINCOUNT=${GOMP_SPINCOUNT:-10000}
    .venv/bin/python "tools/$name.py" "$@"
    echo "[$name] finished in $((SECONDS - start)) s"
}
