#!/usr/bin/env bash
# Create the environment .venv of this repository from pinned versions.
#
#   bash tools/setup_env.sh                 what the package and its tests need
#   bash tools/setup_env.sh --downstream    mmdet and mmseg too (56 MB more)
#
# Called by quickstart.sh and run_tests.sh. Downloads about 2.5 GB once (2 minutes on a
# fast line; more where the platform's torch brings CUDA) and then returns at once until
# a file in requirements/ or setup.py changes. PYTHON=/path/to/python chooses the
# interpreter; pip's own variables (PIP_INDEX_URL ...) are respected.
set -euo pipefail
cd "$(dirname "$0")/.."

venv=.venv
stamp=$venv/mergevq_mm.stamp
downstream_stamp=$venv/mergevq_mm_downstream.stamp
log=$venv/setup.log
case "${1:-}" in
"") downstream=false ;;
--downstream) downstream=true ;;
*)
    echo "error: unknown argument $1; the only one is --downstream." >&2
    exit 1
    ;;
esac

fits() { # the pins have packages for CPython 3.11 and 3.12
    "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' \
        >/dev/null 2>&1
}

find_python() {
    local candidate
    if [ -n "${PYTHON:-}" ]; then
        if fits "$PYTHON"; then
            echo "$PYTHON"
            return
        fi
        echo "error: PYTHON=$PYTHON is not a CPython 3.11 or 3.12." >&2
        exit 1
    fi
    for candidate in python3.11 python3.12 python3 python; do
        if fits "$candidate"; then
            echo "$candidate"
            return
        fi
    done
    echo "error: found no CPython 3.11 or 3.12, for which the pinned versions exist:" \
        "install one, or name it by PYTHON=/path/to/python." >&2
    exit 1
}

fingerprint() { # of everything that decides what is installed
    "$1" - requirements/*.txt setup.py <<'PY'
import hashlib, os, pathlib, sys
digest = hashlib.sha256(repr((sys.version_info[:2], os.getcwd())).encode())
for name in sorted(sys.argv[1:]):
    digest.update(pathlib.Path(name).read_bytes())
print(digest.hexdigest())
PY
}

step() { # step TEXT COMMAND...: run quietly, show the log only if it fails
    local text=$1 start=$SECONDS
    shift
    printf '[setup] %s ...\n' "$text"
    if ! "$@" >>"$log" 2>&1; then
        tail -n 30 "$log" >&2
        echo "error: this step failed; the whole log is $log." >&2
        exit 1
    fi
    printf '[setup] done in %d s\n' $((SECONDS - start))
}

is_current() { # is_current STAMP: whether it was made from these requirements
    fits "$venv/bin/python" && [ -f "$1" ] &&
        [ "$(cat "$1")" = "$(fingerprint "$venv/bin/python")" ]
}

pip_install() {
    "$venv/bin/python" -m pip install --disable-pip-version-check "$@"
}

set_up() {
    local total=$SECONDS python
    if ! fits "$venv/bin/python" ||
        ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
        python=$(find_python)
        echo "[setup] creating $venv with $("$python" --version)"
        if ! "$python" -m venv --clear "$venv"; then
            echo "error: $python cannot make a virtual environment: install its venv" \
                "module (python3-venv on Debian and Ubuntu)." >&2
            exit 1
        fi
    fi
    rm -f "$stamp" "$downstream_stamp"
    : >"$log"
    step "installing pinned packages (about 2 minutes and 2.5 GB the first time)" \
        pip_install -c requirements/constraints.txt -r requirements/tests.txt
    step "installing this package in place" \
        pip_install --no-deps --no-build-isolation -e .
    step "checking that it imports" "$venv/bin/python" -c "import mergevq_mm, torchvision"
    fingerprint "$venv/bin/python" >"$stamp"
    echo "[setup] $venv is ready after $((SECONDS - total)) s"
}

set_up_downstream() {
    rm -f "$downstream_stamp"
    step "installing mmdet and mmseg (56 MB the first time)" \
        pip_install -c requirements/constraints.txt -r requirements/downstream.txt
    step "checking that they import" \
        "$venv/bin/python" -c "import mergevq_mm, mmdet, mmseg"
    fingerprint "$venv/bin/python" >"$downstream_stamp"
}

if is_current "$stamp"; then
    echo "[setup] $venv is up to date"
else
    set_up
fi
if $downstream && ! is_current "$downstream_stamp"; then
    set_up_downstream
fi
