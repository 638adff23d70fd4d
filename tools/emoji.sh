#!/usr/bin/env bash
# Set up .venv if needed, then the same as quickstart.sh in colour: a tokenizer of emoji
# and three generators on its codes, trained, measured and pictured.
#
#   bash tools/emoji.sh                   over two hours on two cores
#   bash tools/emoji.sh --resume          go on with a run that was stopped
#   bash tools/emoji.sh --tokenizer-only  without the generators, in 1.5 hours
#   bash tools/emoji.sh --tokenizer CONFIG  that of another config of configs/emoji
#   bash tools/emoji.sh --short           a few steps only, to see that it runs
#
# The pictures and a network's weights come as two packages of 66 and 23 MB. Arguments go
# to tools/emoji.py (see its --help).
set -euo pipefail
cd "$(dirname "$0")/.."
source tools/one_command.sh

bash tools/setup_env.sh --emoji
one_command emoji "$@"
