"""Four processes, then two, then four, each killed within an epoch: one run."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.model import BaseModel, MMDistributedDataParallel
from mmengine.runner import Runner
from processes import fork, wait
from torch import distributed, nn
from torch.utils.data import Dataset

from mergevq_mm.utils.checkpoint_file import find_latest_checkpoint

SAMPLES, SIZE, EPOCHS = 48, 2, 2  # six steps of four processes an epoch


class Noisy(Dataset):
    """Numbers with noise that workers draw."""

    metainfo: dict = {}

    def __len__(self) -> int:
        return SAMPLES

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return dict(x=torch.full((4,), float(index)), noise=torch.rand(4))


class Net(BaseModel):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(4, 1)

    def forward(
        self, x: torch.Tensor, noise: torch.Tensor, mode: str = 'loss'
    ) -> dict[str, torch.Tensor]:
        return dict(loss=self.net(x / SAMPLES + noise).square().mean())


class StepsOf(Hook):
    """Writes down the samples of each step of a rank, and lets one rank be killed."""

    priority = 'LOWEST'

    def __init__(self, folder: Path, rank: int, death: tuple[int, int] | None) -> None:
        self.path, self.rank, self.death = folder / f'steps_{rank}.txt', rank, death

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Any = None,
        outputs: Any = None,
    ) -> None:
        pieces = data_batch if isinstance(data_batch, list) else [data_batch]
        step, epoch = runner.iter + 1, runner.epoch
        with open(self.path, 'a', buffering=1) as file:
            for piece in pieces:
                assert len(piece['x']) <= SIZE
                for value in piece['x'][:, 0].tolist():
                    file.write(f'{step} {epoch} {int(value)}\n')
        if self.death == (self.rank, step):
            os.kill(os.getpid(), signal.SIGKILL)


def train(folder: Path, rank: int, world: int, store: str, death: Any) -> None:
    """One rank of a run that saves every second step."""
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world))
    distributed.init_process_group(
        'gloo',
        init_method=f'file://{store}',
        rank=rank,
        world_size=world,
        timeout=timedelta(seconds=60),
    )
    torch.manual_seed(0)
    runner = Runner(
        model=Net(),
        work_dir=str(folder),
        train_dataloader=dict(
            batch_size=SIZE,
            num_workers=1,
            dataset=Noisy(),
            sampler=dict(type='DefaultSampler', shuffle=True),
            collate_fn=dict(type='default_collate'),
        ),
        train_cfg=dict(by_epoch=True, max_epochs=EPOCHS),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.05, momentum=0.9)),
        param_scheduler=dict(
            type='CosineAnnealingLR',
            by_epoch=True,
            T_max=EPOCHS,
            convert_to_iter_based=True,
        ),
        default_hooks=dict(
            checkpoint=dict(
                type='mergevq_mm.SafeCheckpointHook', by_epoch=False, interval=2
            )
        ),
        custom_hooks=[dict(type='mergevq_mm.RunStateHook')],
        cfg=dict(
            model_wrapper_cfg=dict(
                type='MMDistributedDataParallel',
                device_ids=None,
                broadcast_buffers=False,
            )
        ),
        launcher='pytorch',
        env_cfg=dict(dist_cfg=dict(backend='gloo')),
        resume=True,
        randomness=dict(seed=0),
        experiment_name=f'elastic-{world}-{time.monotonic_ns()}',
        log_level='WARNING',
    )
    assert isinstance(runner.model, MMDistributedDataParallel)
    runner.register_hook(StepsOf(folder, rank, death))
    runner.train()


def together(folder: Path, world: int, death: tuple[int, int] | None = None) -> None:
    """Run some ranks to the end, or until one is killed and the others have ended."""
    folder.mkdir(exist_ok=True)
    store, log = folder / f'store_{time.monotonic_ns()}', folder / 'log.txt'
    ranks = [
        fork(partial(train, folder, rank, world, str(store), death), log)
        for rank in range(world)
    ]
    codes = [wait(pid) for pid in ranks]
    if death is None:
        assert codes == [0] * world, log.read_text()
    else:
        assert codes[death[0]] == -signal.SIGKILL and 0 not in codes, log.read_text()


def used(folder: Path, until: int, since: int = 0) -> list[tuple[int, int, int]]:
    """Step, epoch and number of the samples of some steps, in order."""
    lines = [p.read_text().split('\n') for p in folder.glob('steps_*.txt')]
    found = [tuple(map(int, x.split())) for part in lines for x in part if x]
    for path in folder.glob('steps_*.txt'):
        path.unlink()
    return sorted(item for item in found if since < item[0] <= until)


def saved(folder: Path) -> int:
    latest = find_latest_checkpoint(folder)
    return torch.load(latest, weights_only=True)['meta']['iter'] if latest else 0


@pytest.mark.parametrize('worlds', [(4, 2, 4), (4, 3, 4)])
def test_each_sample_once(tmp_path: Path, worlds: tuple[int, ...]) -> None:
    """Rank 1 is killed at step 4, the last rank at step 9; three cannot share 8."""
    folder, lineage, before = tmp_path / 'parts', [], 0
    deaths = [(1, 4), (worlds[1] - 1, 9), None]
    for world, death in zip(worlds, deaths):
        together(folder, world, death)
        now = saved(folder)
        lineage += used(folder, now, before)
        assert now >= before
        before = now
    for epoch in range(EPOCHS):
        count = Counter(value for _, e, value in lineage if e == epoch)
        assert set(count) == set(range(SAMPLES)), epoch
        # What is left of the epoch need not be a multiple of three.
        assert count.total() - SAMPLES <= (2 if worlds[1] == 3 else 0), epoch
    log = (folder / 'log.txt').read_text()
    if worlds[1] == 3:
        assert 'An optimizer step takes 6 samples' in log
        return
    assert 'with 2 in the place of 4 processes: an iteration keeps its 8' in log
    whole = tmp_path / 'whole'
    together(whole, 4)
    assert lineage == used(whole, 6 * EPOCHS)  # step by step
    a, b = (torch.load(x / 'iter_12.pth', weights_only=True) for x in (whole, folder))
    for key, value in a['state_dict'].items():
        torch.testing.assert_close(b['state_dict'][key], value, rtol=1e-5, atol=1e-6)
    assert a['param_schedulers'] == b['param_schedulers']
