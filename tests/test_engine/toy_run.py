"""A toy run for the hooks' tests: random data, dropout, momentum, all streams."""

from __future__ import annotations

import itertools
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.evaluator import BaseMetric
from mmengine.logging import MessageHub
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch import nn
from torch.utils.data import Dataset

_COUNT = itertools.count()  # mmengine keeps loggers by the experiment's name


class NoisyData(Dataset):
    """Eight items with noise from python, numpy and torch at each access."""

    metainfo = dict(classes=('a', 'b'), palette=np.arange(3, dtype=np.uint8))

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        noise = random.random() + np.random.rand() + torch.rand(4)
        return dict(x=index + noise)


class Toy(BaseModel):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 1))
        self.seen: list[float] = []

    def forward(self, x: torch.Tensor, mode: str = 'loss') -> Any:
        if mode == 'predict':
            return [dict(y=y) for y in self.net(x + torch.rand(1))]
        self.seen.append(x.sum().item())
        return dict(loss=self.net(x).square().mean())


class Score(BaseMetric):
    """Gets better with every epoch, and draws random numbers."""

    default_prefix = 'val'

    def process(self, data_batch: Any, data_samples: Any) -> None:
        self.results.append(random.random() + np.random.rand())

    def compute_metrics(self, results: list) -> dict[str, Any]:
        hub = MessageHub.get_current_instance()
        return dict(score=np.float64(hub.get_info('epoch') + hub.get_info('iter')))


def make_runner(
    work_dir: Path, epochs: int = 4, by_epoch: bool = True, **kwargs: Any
) -> Runner:
    """Build a runner; ``kwargs`` override, ``checkpoint`` extends its hook."""
    loader = dict(
        dataset=NoisyData(),
        batch_size=2,
        num_workers=0,
        collate_fn=dict(type='default_collate'),
    )
    torch.manual_seed(0)
    checkpoint = dict(
        type='mergevq_mm.SafeCheckpointHook', by_epoch=by_epoch, interval=1
    )
    checkpoint.update(kwargs.pop('checkpoint', {}))
    if by_epoch:
        train_cfg = dict(by_epoch=True, max_epochs=epochs, val_interval=1)
    else:
        train_cfg = dict(by_epoch=False, max_iters=epochs, val_interval=2)
    arguments = dict(
        model=Toy(),
        work_dir=str(work_dir),
        train_dataloader=dict(
            loader, sampler=dict(type='DefaultSampler', shuffle=True)
        ),
        train_cfg=train_cfg,
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=1e-3, momentum=0.9)),
        # `end` would follow from the length of the run and be saved with it.
        param_scheduler=dict(
            type='CosineAnnealingLR', T_max=9, end=9, by_epoch=by_epoch
        ),
        val_dataloader=dict(loader, sampler=dict(type='DefaultSampler', shuffle=False)),
        val_cfg=dict(),
        val_evaluator=[Score()],
        default_hooks=dict(
            checkpoint=checkpoint, logger=dict(type='LoggerHook', interval=1)
        ),
        custom_hooks=[dict(type='mergevq_mm.RunStateHook')],
        randomness=dict(seed=3),
        experiment_name=f'{work_dir.name}-{next(_COUNT)}',
        log_level='WARNING',
    )
    arguments.update(kwargs)
    return Runner(**arguments)


def weights(runner: Runner) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in runner.model.parameters()])


def momentum(runner: Runner) -> torch.Tensor:
    states = runner.optim_wrapper.optimizer.state.values()
    return torch.cat([state['momentum_buffer'].flatten() for state in states])


def assert_same_run(whole: Runner, resumed: Runner) -> None:
    """Data, weights, optimizer and logs are equal to the last bit."""
    assert resumed.model.seen == whole.model.seen[-len(resumed.model.seen) :]
    assert torch.equal(weights(whole), weights(resumed))
    assert torch.equal(momentum(whole), momentum(resumed))
    for key in ('train/loss', 'train/lr'):
        a, b = (r.message_hub.get_scalar(key).data[0] for r in (whole, resumed))
        assert a.tolist() == b.tolist(), key
