#!/usr/bin/env bash
# Build the documentation site into work_dirs/site: the pages of docs/, and a reference out
# of the docstrings. Each warning, so each link within it that leads nowhere, is an error.
#
#   bash tools/build_docs.sh
#
# It has an environment of its own, .venv-docs (half a minute once): the sources
# are read and not imported. PYTHON=/path/to/python chooses the interpreter (3.11 on).
set -euo pipefail
cd "$(dirname "$0")/.."

venv=.venv-docs
stamp=$venv/requirements.txt
if ! cmp -s docs/requirements.txt "$stamp"; then
    rm -rf "$venv"
    python=.venv/bin/python
    [ -x "$python" ] || python=python3
    "${PYTHON:-$python}" -m venv "$venv"
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check \
        -r docs/requirements.txt
    cp docs/requirements.txt "$stamp"
fi
rm -rf docs/api work_dirs/site
"$venv/bin/python" -m sphinx --fail-on-warning --keep-going --quiet \
    -d work_dirs/site_cache docs work_dirs/site
echo "[docs] open work_dirs/site/index.html"
