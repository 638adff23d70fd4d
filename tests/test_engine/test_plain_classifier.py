"""The hooks in a run that has nothing of this package but them: a classifier."""

from __future__ import annotations

import itertools
import os
import signal
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.runner import Runner
from tiny_mergevq import write_images

from mergevq_mm.utils.config import complete_hooks
from mergevq_mm.utils.config_check import check_config

_COUNT = itertools.count()


def config(root: Path, work_dir: Path, resume: bool = False) -> Config:
    """A config as mmpretrain's users write it; the tools add the hooks."""
    pipeline = [
        dict(type='LoadImageFromFile'),
        dict(type='Resize', scale=32),
        dict(type='RandomFlip', prob=0.5),
        dict(type='RandomGrayscale', prob=1.0),
        dict(type='PackInputs'),
    ]
    cfg = Config(
        dict(
            default_scope='mmpretrain',
            model=dict(
                type='ImageClassifier',
                backbone=dict(type='LeNet5', num_classes=2),
                head=dict(type='ClsHead'),
            ),
            data_preprocessor=dict(mean=[127.5], std=[127.5], num_classes=2),
            train_dataloader=dict(
                batch_size=2,
                num_workers=0,
                collate_fn=dict(type='default_collate'),
                sampler=dict(type='DefaultSampler', shuffle=True),
                dataset=dict(
                    type='CustomDataset',
                    data_root=str(root / 'train'),
                    pipeline=pipeline,
                ),
            ),
            train_cfg=dict(by_epoch=True, max_epochs=2),
            optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.01, momentum=0.9)),
            param_scheduler=dict(type='CosineAnnealingLR', T_max=2, by_epoch=True),
            default_hooks=dict(checkpoint=dict(type='CheckpointHook', interval=1)),
            custom_hooks=[dict(type='EMAHook', momentum=0.1)],
            randomness=dict(seed=1),
            work_dir=str(work_dir),
            experiment_name=f'classifier-{next(_COUNT)}',
            resume=resume,
        )
    )
    check_config(cfg)
    complete_hooks(cfg)
    return cfg


def test_stopped_classifier_equals_one_that_was_not(tmp_path: Path) -> None:
    root = write_images(tmp_path / 'data')
    whole = Runner.from_cfg(config(root, tmp_path / 'whole'))
    names = {type(hook).__name__ for hook in whole.hooks}
    assert names > {'PreemptionHook', 'WorkDirLockHook', 'DamagedFilesHook'}
    assert names > {'SafeCheckpointHook', 'RunStateHook', 'EMAHook'}
    whole.train()
    stopped = Runner.from_cfg(config(root, tmp_path / 'parts'))
    step = stopped.model.train_step

    def send(*args: object, **kwargs: object) -> dict:
        if stopped.iter + 1 == 6:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(*args, **kwargs)

    stopped.model.train_step = send
    with pytest.raises(SystemExit):
        stopped.train()
    assert (tmp_path / 'parts' / 'iter_6.pth').is_file()
    Runner.from_cfg(config(root, tmp_path / 'parts', resume=True)).train()
    contents = [
        torch.load(tmp_path / name / 'epoch_2.pth', weights_only=True)
        for name in ('whole', 'parts')
    ]
    for key in ('state_dict', 'ema_state_dict'):
        a, b = (content[key] for content in contents)
        assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)
    assert not (tmp_path / 'parts' / 'iter_6.pth').exists()
    assert not (tmp_path / 'parts' / 'run.lock').exists()
