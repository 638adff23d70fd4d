"""A resumed run says what its config has changed, and refuses what cannot go on."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, MODELS
from mmengine.runner import Runner
from torch import nn
from torch.utils.data import Dataset

from mergevq_mm.engine.config_changes import config_changes, plain_config

_COUNT = itertools.count()


@DATASETS.register_module(force=True)
class FourPoints(Dataset):
    def __init__(self, size: int = 4) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> dict:
        return dict(x=torch.full((3,), float(index)))


@MODELS.register_module(force=True)
class WideNet(BaseModel):
    def __init__(self, width: int = 4, bias: bool = True, power: int = 2) -> None:
        super().__init__()
        self.power = power
        self.net = nn.Sequential(nn.Linear(3, width), nn.Linear(width, 1, bias=bias))

    def forward(self, x: torch.Tensor, mode: str = 'loss') -> Any:
        return dict(loss=self.net(x).pow(self.power).mean())


def run(work_dir: Path, **options: Any) -> tuple[Runner, list[str]]:
    """Train one epoch, or with ``resume`` a second; the runner and what it logged."""
    cfg = Config(
        dict(
            model=dict(type='WideNet', width=4),
            work_dir=str(work_dir),
            train_dataloader=dict(
                batch_size=2,
                num_workers=0,
                collate_fn=dict(type='default_collate'),
                sampler=dict(type='DefaultSampler', shuffle=True),
                dataset=dict(type='FourPoints'),
            ),
            train_cfg=dict(by_epoch=True, max_epochs=1),
            optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.01)),
            default_hooks=dict(checkpoint=dict(type='mergevq_mm.SafeCheckpointHook')),
            custom_hooks=[dict(type='mergevq_mm.RunStateHook')],
            randomness=dict(seed=0),
            experiment_name=f'changes-{next(_COUNT)}',
        )
    )
    if options.get('resume'):
        cfg.train_cfg.max_epochs = 2
    cfg.merge_from_dict({k.replace('__', '.'): v for k, v in options.items()})
    runner = Runner.from_cfg(cfg)
    logged: list[str] = []
    runner.logger.handle = lambda record: logged.append(record.getMessage())
    runner.train()
    return runner, logged


def test_changes_are_printed(tmp_path: Path) -> None:
    run(tmp_path)
    runner, logged = run(
        tmp_path,
        resume=True,
        model__power=4,
        train_dataloader__batch_size=1,
        optim_wrapper__accumulative_counts=3,
    )
    (text,) = [text for text in logged if 'The config is not the one' in text]
    assert text.splitlines()[1:] == [
        '  model.power: not set -> 4',
        '  optim_wrapper.accumulative_counts: not set -> 3',
        '  train_cfg.max_epochs: 1 -> 2',
        '  train_dataloader.batch_size: 2 -> 1',
    ]
    (text,) = [text for text in logged if 'An optimizer step takes' in text]
    assert 'takes 3 samples' in text and 'in the checkpoint it took 2' in text
    assert runner.epoch == 2


def test_the_same_config_says_nothing(tmp_path: Path) -> None:
    run(tmp_path, train_cfg__max_epochs=2)
    _, logged = run(tmp_path, resume=True)
    assert not [text for text in logged if 'The config is not' in text]


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (
            dict(model__width=5),
            r'resume: .*"net.0.bias" has shape \[4\] and should have \[5\] \(and 2 more'
            r'\).*model.width: 4 -> 5; set it back',
        ),
        (
            dict(model__bias=False),
            r'"net.1.bias" is left over; .*model.bias: not set -> False; set it back',
        ),
        (
            dict(optim_wrapper__optimizer__type='Adam'),
            r"optimizer.type is another; .*optimizer.type: 'SGD' -> 'Adam'; set it",
        ),
        (
            dict(optim_wrapper__paramwise_cfg=dict(bias_lr_mult=2.0)),
            r'4 parameters in 1 groups .* 4 in 4; .*paramwise_cfg.bias_lr_mult: not',
        ),
        (
            dict(train_cfg=dict(by_epoch=False, max_iters=9, _delete_=True)),
            'train_cfg.by_epoch=False, but the checkpoint .* by_epoch=True; set it',
        ),
    ],
)
def test_what_cannot_go_on_names_the_key(
    tmp_path: Path, options: dict, message: str
) -> None:
    run(tmp_path)
    if 'train_cfg' in options:
        options['default_hooks__checkpoint__by_epoch'] = False
    with pytest.raises(ValueError, match=message):
        run(tmp_path, resume=True, **options)


def test_the_order_of_the_data_survives_without_a_seed(tmp_path: Path) -> None:
    """mmengine draws a seed then, before it knows that of the checkpoint."""
    first, _ = run(tmp_path, randomness=dict(seed=None))
    second, _ = run(tmp_path, resume=True, randomness=dict(seed=None))
    assert second.train_dataloader.sampler.seed == first.train_dataloader.sampler.seed


def test_comparison_of_values() -> None:
    old = dict(a=[1, 2], b=[dict(c=1), dict(c=2)], d=None, work_dir='x', e=(1,))
    new = dict(a=[1, 3], b=[dict(c=1)], d=None, work_dir='y', e=[1])
    changes = config_changes(plain_config(old), plain_config(new))
    assert [str(change) for change in changes] == [
        'a: [1, 2] -> [1, 3]',
        'b.1.c: 2 -> not set',
    ]
    assert plain_config(dict(type=nn.ReLU)) == dict(type=repr(nn.ReLU))
