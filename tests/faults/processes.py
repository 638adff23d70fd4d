"""Runs in processes that can be killed: forked ones, which start at once, and tools."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from mmengine.hooks import Hook
from toy_run import make_runner

REPO = Path(__file__).resolve().parents[2]


def fork(function: Callable[[], None], log: Path) -> int:
    """Call a function in a process of its own.

    Args:
        function (Callable): What it does. Its exit code is 0, or 1 after an exception.
        log (Path): What it prints.

    Returns:
        int: The number of the process.
    """
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        sys.stdout = sys.stderr = open(log, 'a', buffering=1)
        function()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stderr.flush()
        os._exit(code)  # neither pytest's exit handlers nor its report


def wait(pid: int) -> int:
    """Wait for a forked process; its exit code, negative for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


class StepLog(Hook):
    """Appends the number of each finished iteration to a file, at once."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def after_train_iter(self, runner: Any, *args: Any, **kwargs: Any) -> None:
        with open(self.path, 'a', buffering=1) as file:
            file.write(f'{runner.iter + 1}\n')


def steps(folder: Path) -> list[int]:
    """Iterations that were finished, in order, of all runs in a folder."""
    path = folder / 'steps.txt'
    return [int(line) for line in path.read_text().split()] if path.exists() else []


def toy(folder: Path, epochs: int, resume: bool = False, **kwargs: Any) -> None:
    """Train the toy, keeping two checkpoints."""
    folder.mkdir(parents=True, exist_ok=True)
    runner = make_runner(
        folder,
        epochs,
        checkpoint=dict(max_keep_ckpts=2),
        custom_hooks=[
            dict(type='mergevq_mm.RunStateHook'),
            dict(type='mergevq_mm.WorkDirLockHook'),
            StepLog(folder / 'steps.txt'),
        ],
        resume=resume,
        log_level='ERROR',
        **kwargs,
    )
    runner.train()


def same_content(a: Path, b: Path) -> bool:
    """Whether two checkpoints hold the same weights, momenta and random states."""
    contents = [torch.load(path, weights_only=True) for path in (a, b)]
    parts = [
        (
            list(content['state_dict'].values()),
            [s['momentum_buffer'] for s in content['optimizer']['state'].values()],
            [state['torch'] for state in content['rng_states']],
        )
        for content in contents
    ]
    pairs = zip(sum(parts[0], []), sum(parts[1], []), strict=True)
    return all(torch.equal(x, y) for x, y in pairs)


MODULE = """
import time
from pathlib import Path
import torch
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, HOOKS, MODELS
from torch.utils.data import Dataset

@DATASETS.register_module()
class Points(Dataset):
    metainfo = dict()
    def __len__(self):
        return 16
    def __getitem__(self, index):
        return dict(x=torch.full((4,), float(index)))

@MODELS.register_module()
class Net(BaseModel):
    def __init__(self):
        super().__init__()
        self.net = torch.nn.Linear(4, 1)
    def forward(self, x, mode='loss'):
        return dict(loss=self.net(x).square().mean())

@HOOKS.register_module()
class SlowHook(Hook):
    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        with open(f'steps_{runner.rank}.txt', 'a') as file:
            for value in data_batch['x'][:, 0].tolist():
                file.write(f'{runner.epoch} {int(value)}\\n')
        if not Path('fast').exists():
            time.sleep(0.3)
"""
CONFIG = """
custom_imports = dict(imports=['slow_module'])
model = dict(type='Net')
train_dataloader = dict(batch_size=2, num_workers=WORKERS,
                        dataset=dict(type='Points'),
                        sampler=dict(type='DefaultSampler', shuffle=True))
train_cfg = dict(by_epoch=True, max_epochs=1000)
optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.001))
custom_hooks = [dict(type='SlowHook')]
randomness = dict(seed=0)
"""


class Tool:
    """``tools/train.py`` or ``dist_train.sh`` in a folder, with a slow toy config."""

    def __init__(self, folder: Path, workers: int = 0) -> None:
        self.folder = folder
        self.work_dir = folder / 'work_dirs' / 'slow'
        (folder / 'slow_module.py').write_text(MODULE)
        (folder / 'slow.py').write_text(CONFIG.replace('WORKERS', str(workers)))

    def start(self, *flags: str, processes: int = 1) -> subprocess.Popen:
        """Start it in a group of processes of its own."""
        command = [sys.executable, str(REPO / 'tools' / 'train.py'), 'slow.py']
        if processes > 1:
            script = str(REPO / 'tools' / 'dist_train.sh')
            command = ['bash', script, 'slow.py', str(processes)]
        return subprocess.Popen(
            [*command, *flags],
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            env={
                **os.environ,
                'CUDA_VISIBLE_DEVICES': '',
                'OMP_NUM_THREADS': '1',
                'PORT': str(20000 + os.getpid() % 20000),
                'PYTHON': sys.executable,
                'PYTHONPATH': f'{REPO}{os.pathsep}{self.folder}',
            },
        )

    def wait_for(self, process: subprocess.Popen, samples: int) -> None:
        """Wait until rank 0 has used some samples."""
        end = time.monotonic() + 240
        while len(self.samples(0)) < samples:
            if process.poll() is not None or time.monotonic() > end:
                process.kill()
                raise AssertionError(process.communicate()[0])
            time.sleep(0.05)

    def output(self, process: subprocess.Popen, timeout: float = 120) -> str:
        """What a process printed, once it has ended; one that goes on is killed."""
        try:
            return process.communicate(timeout=timeout)[0]
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            text = process.communicate()[0][-3000:]
            raise AssertionError(f'not ended after {timeout} s: {text}') from None

    def samples(self, rank: int) -> list[tuple[int, int]]:
        """Epoch and number of each sample that a rank has used."""
        path = self.folder / f'steps_{rank}.txt'
        lines = path.read_text().splitlines() if path.exists() else []
        return [tuple(map(int, line.split())) for line in lines]

    def finish(self, processes: int = 1) -> tuple[str, int]:
        """Resume without pauses, to the end of an epoch that was not begun.

        Args:
            processes (int): How many. Defaults to 1.

        Returns:
            tuple[str, int]: What it printed, and the number of epochs.
        """
        (self.folder / 'fast').touch()
        epochs = max(epoch for epoch, _ in self.samples(0)) + 3
        options = ['--cfg-options', f'train_cfg.max_epochs={epochs}']
        process = self.start('--resume', *options, processes=processes)
        out = self.output(process, timeout=280)
        assert process.returncode == 0, out
        return out, epochs
