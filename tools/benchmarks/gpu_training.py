"""Sections of the report on a GPU: a training step, and a minute of real training."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import train_step
from common import MIB, peak_memory
from gpu_setting import Setting, operators
from gpu_small import small_stage1
from mmengine.config import Config
from offline import prepare
from parts import PartRecorder
from PIL import Image
from reporting import Report

from mergevq_mm.engine.hooks import speed_hook
from mergevq_mm.utils.config import enable_bf16, enable_fast, load_config

REPO = Path(__file__).parents[2]
LAST = '--channels-last'
STAGE_1 = ('mergevq_g+r.py', 'mergevq_r.py')
STOPPED = 128 + signal.SIGTERM  # the status of a run that was asked to stop, and saved
DISTINCT = 64  # images of the real training


def stage1_files(setting: Setting, folder: str) -> list[str]:
    """Configs of stage 1 to train."""
    if setting.small:
        return [small_stage1(Path(folder))]
    return [str(REPO / 'configs' / name) for name in STAGE_1]


def ways_to_train(setting: Setting) -> dict[str, Callable[[Config], None] | None]:
    """For each row how it changes a config; fused optimizers are for GPUs."""
    ways = {'bf16': enable_bf16, 'float32': None}
    if setting.gpu:  # channels-last compiles
        ways = {'--fast': enable_fast, **ways, f'--fast {LAST}': enable_fast}
    return ways


def step(setting: Setting, section: Callable[..., Report]) -> None:
    """A training step of stage 1, in several ways."""
    batch = 2 if setting.small else 16
    report = section(
        f'Training step of stage 1, {batch} images, random weights',
        {
            'config': 'config',
            'way': 'way',
            'ms': 'step (ms)|.1f',
            'rate': 'images/s|.1f',
            'mib': 'peak (MiB)|,.0f',
            'operators': 'operators|d',
            'kernels': 'kernels|d',
        },
    )
    with tempfile.TemporaryDirectory() as folder:
        files = stage1_files(setting, folder)
        for way, change in ways_to_train(setting).items():
            for file in files:
                measure = partial(
                    _measured, setting, file, folder, batch, change, way.endswith(LAST)
                )
                report.attempt(measure, config=Path(file).stem, way=way)


def _measured(
    setting: Setting,
    file: str,
    folder: str,
    batch: int,
    change: Callable[[Config], None] | None,
    channels_last: bool,
) -> dict[str, Any]:
    """Time, memory and launches of a step."""
    args = Namespace(
        config=file,
        cfg_options=None,
        view_sizes=None,
        img_size=None,
        keep=None,
        batch_size=batch,
        device=str(setting.device),
    )
    model, sizes, cfg = train_step.build(args, folder, change)
    model = speed_hook.prepare(model, channels_last=channels_last)
    recorder = PartRecorder(setting.device)
    with train_step.quiet():
        work, _ = train_step.build_step(model, sizes, cfg, batch, recorder)
        work()  # frozen networks are built at their first use
    took = setting.timed(work)
    return {
        'ms': 1e3 * took,
        'rate': batch / took,
        'mib': peak_memory(work, setting.device) / MIB,
        'operators': operators(work),
        'kernels': setting.kernels(work),
    }


# ------------------------------------------------------------------- real training


def real(setting: Setting, section: Callable[..., Report]) -> None:
    """``tools/train.py`` with a data loader; stopped, and resumed."""
    report = section(
        'Training by tools/train.py, JPEGs through a data loader, stopped and resumed',
        {
            'run': 'run',
            'iterations': 'iterations',
            'ms': 'step (ms)|.1f',
            'waits': 'of it for data (ms)|.1f',
            'rate': 'images/s|.1f',
            'start': 'start (s)|.1f',
            'status': 'exit status|d',
        },
    )
    report.note(
        'start: until the first log entry; an exit status of '
        f'{STOPPED} is that of a run that was asked to stop and has saved.'
    )
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        file, batch = training_config(setting, folder)
        before = 0
        for run, share in (('first', 0.5), ('resumed', 0.3)):  # the rest is for saving
            flags = ['--resume'] if run == 'resumed' else []
            row = run_for(
                command(setting, file, folder, flags),
                folder / 'work',
                setting.seconds * share,
                before,
            )
            seen = row.pop('seen')
            if seen:
                row['iterations'] = f'{seen[0]}-{seen[-1]}'
                row['rate'] = 1e3 * batch / row['ms']
                before = seen[-1]
            report.add(run=run, **row)


def training_config(setting: Setting, folder: Path) -> tuple[str, int]:
    """A config that trains on images that are written here, and its batch size."""
    cfg = load_config(stage1_files(setting, str(folder))[0])
    batch = 2 if setting.small else 16
    prepare(cfg, None, None, batch, folder)
    cfg.model.backbone.init_cfg = None
    write_images(folder / 'data', 64 * batch, 64 if setting.small else 400)
    loader = cfg.train_dataloader
    loader.batch_size = batch
    loader.dataset.update(data_root=f'{folder}/data/', num_classes=2)
    workers = 0 if setting.small else min(8, os.cpu_count() or 1)
    loader.update(num_workers=workers, persistent_workers=workers > 0)
    cfg.default_hooks.logger = dict(type='LoggerHook', interval=1)
    cfg.default_hooks.checkpoint.interval = 10**6  # saved when it is stopped
    cfg.train_cfg.max_epochs = 10**6
    cfg.dump(folder / 'training.py')
    return str(folder / 'training.py'), batch


def write_images(folder: Path, number: int, size: int) -> None:
    """Write JPEGs of two classes: smooth noise, of which each comes again and again."""
    rng = np.random.RandomState(0)
    paths = [folder / 'train' / 'ab'[i % 2] / f'{i}.JPEG' for i in range(number)]
    for i, path in enumerate(paths):
        path.parent.mkdir(parents=True, exist_ok=True)
        if i >= DISTINCT:
            path.hardlink_to(paths[i % DISTINCT])
            continue
        image = Image.fromarray(rng.randint(0, 256, (8, 8, 3), dtype=np.uint8))
        image.resize((size, size), Image.Resampling.BICUBIC).save(path, quality=90)


def command(
    setting: Setting, file: str, folder: Path, flags: Sequence[str]
) -> list[str]:
    """The training's command line."""
    own = [sys.executable, str(REPO / 'tools' / 'train.py'), file]
    own += ['--work-dir', str(folder / 'work'), '--no-validate', *flags]
    return own + (['--fast'] if setting.gpu else ['--bf16'])


def run_for(
    arguments: Sequence[str], work: Path, seconds: float, before: int
) -> dict[str, Any]:
    """Run a training for a while and ask it to stop.

    Args:
        arguments (Sequence[str]): Command line.
        work (Path): Folder of its logs.
        seconds (float): After which it is asked to stop, once it has begun.
        before (int): Iterations that an earlier run has done.

    Returns:
        dict[str, Any]: Columns of the row, and ``seen``, the iterations in the log.
    """
    begin, start = time.monotonic(), None
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            arguments,
            cwd=REPO,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, 'PYTHONPATH': str(REPO)},
        )
        try:
            # Before its first step a run would not save; the section's limit holds.
            while process.poll() is None and (
                start is None or time.monotonic() < begin + seconds
            ):
                time.sleep(0.2)
                if start is None and logged(work, before):
                    start = time.monotonic() - begin
            process.terminate()
            process.wait(timeout=max(seconds, 60))
        finally:
            if process.poll() is None:
                process.kill()
        entries = logged(work, before)
        row = {'status': process.returncode, 'start': start, 'seen': []}
        if process.returncode != STOPPED:
            output.seek(0)
            row['output'] = output.read().decode(errors='replace')[-2000:]
    if entries:
        late = entries[len(entries) // 4 :]  # the first ones warm up
        row['seen'] = [entry['step'] for entry in entries]
        # Means: a step that waits for its data counts.
        row['ms'] = 1e3 * fmean(entry['time'] for entry in late)
        row['waits'] = 1e3 * fmean(entry['data_time'] for entry in late)
    return row


def logged(work: Path, before: int) -> list[dict[str, Any]]:
    """Entries of the logs of all runs in a folder, those after an iteration."""
    entries: list[dict[str, Any]] = []
    for file in sorted(work.glob('*/vis_data/scalars.json')):
        for line in file.read_text().splitlines():
            try:
                entry = json.loads(line)
            except json.JSONDecodeError:  # is being written
                continue
            if 'time' in entry and entry.get('step', 0) > before:
                entries.append(entry)
    return entries
