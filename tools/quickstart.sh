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
source tools/one_command.sh

bash tools/setup_env.sh
# QUICKSTART_ARGS is split into words on purpose.
# shellcheck disable=SC2086
one_command quickstart ${QUICKSTART_ARGS:-} "$@"
