"""Runs of a few seconds, which leave the files that later versions have to read.

All paths are relative: whoever makes or resumes such a run stands in its folder, which
has ``images/``, ``published/`` and ``codes/``.
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.runner import Runner
from tiny_mergevq import run_cfg

STAGE1, GENERATORS = 'stage1', ('mergear', 'randar')
RUNS = (STAGE1, *GENERATORS)
EPOCHS, BATCHES = 2, 4  # the file is of the first epoch
KEEPS = (9, 16)
PUBLISHED, CODES, IMAGES = Path('published'), Path('codes'), Path('images')


def stage1_config() -> Config:
    """All losses, two optimizers, averages; 4,000 parameters or so."""
    dims, width = 4, 8
    arch = dict(base_channels=2, num_layers=1)
    changes = dict(
        model__backbone__arch=dict(run_cfg(IMAGES, Path()).model.backbone.arch, **arch),
        model__quantizer__in_channels=dims,
        model__neck__embed_dims=width,
        model__neck__num_layers=1,
        model__neck__feedforward_channels=width,
        model__decoder__base_channels=2,
        model__head__alignment__in_channels=dims,
        model__head__alignment__out_channels=width,
        model__head__alignment__ratio=2,
        model__target_generator__network__arch__embed_dims=width,
        model__discriminator__base_channels=2,
        model__keep=dict(target=9, candidates=list(KEEPS), family='uniform'),
        model__test_cfg=dict(keep=[9]),
        optim_wrapper__generator__accumulative_counts=1,
        optim_wrapper__discriminator__accumulative_counts=1,
        param_scheduler__0__milestones=[1],
        train_cfg__max_epochs=EPOCHS,
    )
    return run_cfg(IMAGES, Path('work', STAGE1), **changes)


def generator_config(kind: str) -> Config:
    """A MergeAR or RandAR on the codes of the published tokenizer."""
    model = dict(
        type={'mergear': 'mergevq_mm.MergeAR', 'randar': 'mergevq_mm.RandAR'}[kind],
        tokenizer=dict(
            type='mergevq_mm.FrozenTokenizer',
            model=str(PUBLISHED / 'config.py'),
            checkpoint=str(PUBLISHED / 'model.safetensors'),
        ),
        arch=dict(
            embed_dims=4, num_layers=1, num_heads=1, ffn_multiple=4, head_layers=1
        ),
        num_classes=2,
        keep=dict(target=9, candidates=list(KEEPS), family='uniform'),
    )
    if kind == 'randar':
        model['first_places'] = True
    cfg = run_cfg(IMAGES, Path('work', kind))
    hooks = ['RunStateHook', 'TokenizerCheckHook']
    return Config(
        dict(
            default_scope='mmpretrain',
            custom_imports=cfg.custom_imports,
            model=model,
            work_dir=cfg.work_dir,
            experiment_name=kind,
            train_dataloader=dict(
                cfg.train_dataloader,
                dataset=dict(
                    type='mergevq_mm.MergeVQCodes', root=str(CODES), flip_prob=0.5
                ),
            ),
            train_cfg=dict(by_epoch=True, max_epochs=EPOCHS),
            optim_wrapper=dict(
                optimizer=dict(type='AdamW', lr=1e-2, weight_decay=0.05),
                clip_grad=dict(max_norm=1.0),
            ),
            param_scheduler=[
                dict(type='MultiStepLR', by_epoch=True, milestones=[1], gamma=0.1)
            ],
            default_hooks=cfg.default_hooks,
            custom_hooks=[dict(type=f'mergevq_mm.{name}') for name in hooks],
            randomness=dict(seed=5),
            log_level='WARNING',
        )
    )


def last_epoch(runner: Runner) -> dict[str, list[float]]:
    """What the last epoch of a run has logged at each step, by name.

    Times and memory, which the machine decides, are left out.
    """
    logs = runner.message_hub.log_scalars
    return {
        name.removeprefix('train/'): [float(v) for v in buffer.data[0][-BATCHES:]]
        for name, buffer in sorted(logs.items())
        if name.startswith('train/') and not name.endswith(('time', 'memory'))
    }


def total_weight(runner: Runner) -> float:
    """Sum of the amounts of all weights."""
    weights = [p.detach().double().abs() for p in runner.model.parameters()]
    return float(sum(weight.sum() for weight in weights))


def digest(value: Any) -> str:
    """A SHA-256 of tensors, numbers and texts in dicts and lists."""
    found = hashlib.sha256()

    def add(item: Any) -> None:
        if isinstance(item, torch.Tensor):
            found.update(item.contiguous().numpy().tobytes())
        elif isinstance(item, Mapping):
            for key in sorted(item):
                found.update(str(key).encode())
                add(item[key])
        elif isinstance(item, (list, tuple)):
            for part in item:
                add(part)
        else:
            found.update(repr(item).encode())

    add(value)
    return found.hexdigest()


def machine() -> dict[str, str]:
    """What decides the last bits of a sum of floats: processor, its kernels, torch."""
    processor = platform.processor() or platform.machine()
    info = Path('/proc/cpuinfo')
    if info.is_file():
        lines = info.read_text().splitlines()
        kept = ('model name', 'cpu family', 'model\t', 'stepping', 'flags')
        first = sorted({line for line in lines if line.startswith(kept)})
        processor = hashlib.sha256('\n'.join(first).encode()).hexdigest()[:16]
    return {
        'processor': processor,
        'kernels': torch.backends.cpu.get_cpu_capability(),
        'torch': torch.__version__,
    }


def read_expected(folder: Path) -> dict[str, Any]:
    """What ``make.py`` has noted beside the files of a version."""
    return json.loads((folder / 'expected.json').read_text())
