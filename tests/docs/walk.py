"""Runs what README and docs/ tell a reader to run, after a short quickstart.

The commands run in their order in a folder that looks like the repository's root.
Trainings and benchmarks are shortened by further flags; what is not run has a reason.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from doc_commands import REPO, Command
from mmengine.runner import find_latest_checkpoint
from ready_processes import run_tool

# Commands that are not run here, by a pattern, and why. The first that fits counts.
NOT_RUN = {
    r'get_flops': None,  # runs, whatever it is asked about
    r'imagenet|in1k|configs/merge(vq|ar)_|/mergevq_(g|g\+r|r)/': 'needs ImageNet',
    r'/path/on/the': 'needs a file system of the reader',
    r'THEIRS|GPT|BACK\.ckpt': "needs the authors' checkpoints",
    r'--push': 'needs an account',
    r'features/(train|val)\.npz': 'reads files of a command that needs ImageNet',
    r'downstream|ade20k|mmcv|ninja': 'tests/downstream does it',
    r'(quickstart|emoji|run_tests|setup_env)\.sh': 'started this',
    r'_emoji|(work_dirs|data)[/ ]emoji': 'needs an hour of tools/emoji.sh',
    r'legacy/make': 'makes what the repository holds',
    r'pip |apt-get|jupyter|^source|my_folder': "changes the reader's machine",
    r'-m pytest': 'runs tests',
    r'golden_curves|public_interface': 'renews files of the repository',
    r'mergevq web': 'tests/web does it',
    r'^docker |^mkdir': 'needs Docker',
    r'\$CONFIG|site-packages': "a test of mmpretrain's own tool does it",
}
# What a reader is to fill in, by the script that takes it.
STAGE1 = ('configs/quickstart/mergevq_g+r_mnist5k.py', 'work_dirs/quickstart/last.pth')
STAGE2 = (
    'configs/quickstart/mergear_mnist5k.py',
    'work_dirs/quickstart/raster/last.pth',
)
FILL_IN = {
    'generate.py': STAGE2,
    'visualize_cache.py': STAGE2,
}
WORDS = {
    'data/mnist5k/val': 'digits-to-try',
    'PHOTO.jpg': 'cat.jpg',
    'FOLDER': 'published/walk',
    '--resume': '',
}
# Every tenth digit.
FEW = (
    f'train_dataloader.dataset.indices={list(range(0, 4000, 10))} '
    f'val_dataloader.dataset.indices={list(range(0, 1000, 10))}'
).replace(', ', ',')
# Flags that make a command short, by a pattern.
SHORTER = {
    r'train\.py .*mergevq_folder': '--cfg-options train_cfg.max_iters=4 '
    'train_dataloader.batch_size=2',
    r'train\.py .*mergevq_shipped_photographs': '--cfg-options train_cfg.max_iters=4',
    r'train\.py .*mergevq_photographs': '--cfg-options train_cfg.max_epochs=3 '
    'train_dataloader.batch_size=2 train_dataloader.dataset.indices=[0,9,99,999]',
    r'linear-30e|coslr-10e': f'--cfg-options train_cfg.max_epochs=2 {FEW}',
    r'train\.py .*_refined': '--cfg-options train_cfg.max_epochs=2 '
    f'model.init_cfg.checkpoint={STAGE1[1]} {FEW}',
    r'source_recovery\.py': f'--cfg-options {FEW}',
    r'export-onnx photos': '--keep 9 --image-size 24 24',
    r'onnx_weights\.py digits': '--number 4',
    r'benchmarks/editing\.py': '--number 10',
    r'benchmarks/tax\.py': '--steps 2 --memory-steps 2',
    r'benchmarks/budget\.py': '--number 16 --repeats 1',
    r'miniature\.py': '--short --data digits --ablations-on --methods G+R --seeds 0',
    r'benchmarks/generation\.py': '--batch 1 2 --repeats 1',
    r'tradeoff\.py': f'--repeats 1 --time-batch 2 --cfg-options {FEW}',
    r'knn\.py .*mnist5k|extract_features\.py .*mnist5k': f'--cfg-options {FEW}',
    r'compile_precision\.py': '--repeats 1 --batch-size 2 --options bf16',
}


def reason(command: Command) -> str | None:
    """Why a command is not run."""
    text = ' '.join(command.words)
    return next((why for key, why in NOT_RUN.items() if re.search(key, text)), None)


def to_run(command: Command, root: Path) -> tuple[list[str], dict[str, str]]:
    """Words and variables of a command, filled in and shortened."""
    words = list(command.words)
    script = next((w for w in words if w.endswith('.py')), '')
    config, checkpoint = FILL_IN.get(Path(script).name, STAGE1)
    fill = {'CONFIG': config, 'CHECKPOINT': checkpoint, **WORDS}
    words = [fill.get(word, word).replace('FOLDER', 'published/walk') for word in words]
    for key, flags in SHORTER.items():
        if re.search(key, ' '.join(words)):
            words += flags.split()
    if words[0] == 'mergevq':
        words = [sys.executable, '-m', 'mergevq_mm', *words[1:]]
    elif words[0] in ('python', '.venv/bin/python'):
        words[0] = sys.executable
    for word in words:  # a shorter training ends with another number
        path = root / word.rpartition('=')[2]
        if path.suffix == '.pth' and path.parent.is_dir() and not path.exists():
            path.symlink_to(find_latest_checkpoint(str(path.parent)))
    variables = {'FOLDER': str(root / 'photographs')}
    environment = {k: variables.get(v, v) for k, v in command.environment.items()}
    return [word for word in words if word], environment


def state(root: Path) -> dict[Path, int]:
    """When each file was written last."""
    return {path: path.stat().st_mtime_ns for path in root.rglob('*')}


def run(command: Command, root: Path) -> None:
    """Run a command as it stands there, or skip it with the reason."""
    if why := reason(command):
        pytest.skip(why)
    words, environment = to_run(command, root)
    before = state(root)
    variables = {**os.environ, 'PYTHONPATH': str(REPO), **environment}
    if words[0] == sys.executable and words[1] != '-c' and not environment:
        done = run_tool(*words[1:], cwd=root, env=variables)
    else:  # the stack may read a variable while it is imported
        done = subprocess.run(
            words, cwd=root, env=variables, capture_output=True, text=True
        )
    assert done.returncode == 0, (
        f'{words}\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}'
    )
    if {'--out', '--png'} & set(words):
        assert state(root) != before, 'it has written nothing'
    else:
        assert done.stdout.strip() or state(root) != before, 'it has done nothing'
