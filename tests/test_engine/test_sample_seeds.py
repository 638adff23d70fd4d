"""Data workers draw by sample: any number of them, and a resumed run, read the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.dataset import DefaultSampler, InfiniteSampler
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch.utils.data import DataLoader
from toy_run import NoisyData, Score, assert_same_run, make_runner

from mergevq_mm.engine.sample_seeds import (
    NumberedBatches,
    SeededSamples,
    seed_samples,
    turns_of,
)


class Stop(Exception):
    """What ends a run."""


class StopAt(Hook):
    """Saves as a run that is asked to stop does, and ends it."""

    priority = 'LOWEST'

    def __init__(self, step: int) -> None:
        self.step = step

    def after_train_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        from mergevq_mm.engine.hooks.safe_checkpoint_hook import save_now

        if runner.iter + 1 == self.step:
            save_now(runner, runner.epoch, self.step)
            raise Stop


NO_VALIDATION = dict(val_cfg=None, val_dataloader=None, val_evaluator=None)


def toy(folder: Path, workers: int, stay: bool = False, **kwargs: Any) -> Runner:
    loaders = [
        dict(
            dataset=NoisyData(),
            batch_size=2,
            num_workers=workers,
            persistent_workers=stay,
            collate_fn=dict(type='default_collate'),
            sampler=dict(type='DefaultSampler', shuffle=shuffle),
        )
        for shuffle in (True, False)
    ]
    own = dict(train_dataloader=loaders[0], val_dataloader=loaders[1])
    return make_runner(folder, **{**own, **kwargs})


def release(runner: Runner) -> None:
    """End workers that stay; at the end of the tests each would be waited for."""
    for loop in (runner.train_loop, runner.val_loop):
        if loop is not None:
            loop.dataloader._iterator = None
            loop.dataloader_iterator = None


class Drawn(Score):
    """What the validation has drawn."""

    def compute_metrics(self, results: list) -> dict[str, float]:
        return dict(score=sum(results))


@pytest.mark.parametrize('stay, stop', [(False, 6), (True, 8), (True, 6)])
def test_resume_with_four_workers_is_exact(
    tmp_path: Path, stay: bool, stop: int
) -> None:
    """After an epoch and within one; the validations draw the same, too."""
    options = dict(val_evaluator=[Drawn()], epochs=3)
    whole = toy(tmp_path / 'whole', 4, stay, **options)
    whole.train()
    release(whole)
    first = toy(tmp_path / 'parts', 4, stay, **options)
    first.register_hook(StopAt(stop))
    with pytest.raises(Stop):
        first.train()
    release(first)
    torch.manual_seed(99)
    resumed = toy(tmp_path / 'parts', 4, stay, resume=True, **options)
    resumed.train()
    release(resumed)
    assert len(resumed.model.seen) == 12 - stop
    assert_same_run(whole, resumed)
    scores = [
        run.message_hub.get_scalar('val/val/score').data[0].tolist()
        for run in (whole, resumed)
    ]
    assert scores[0][-2:] == scores[1][-2:]


def test_any_number_of_workers_reads_the_same(tmp_path: Path) -> None:
    seen = []
    for workers in (1, 3):
        run = toy(tmp_path / str(workers), workers, epochs=2, **NO_VALIDATION)
        run.train()
        seen.append(run.model.seen)
    assert seen[0] == seen[1]
    assert len(set(seen[0])) == 8  # each pass draws anew


def test_iteration_based(tmp_path: Path) -> None:
    options = dict(by_epoch=False, workers=2, stay=True, **NO_VALIDATION)
    runs = []
    for folder, steps, resume in (
        ('whole', 8, False),
        ('parts', 6, False),
        ('parts', 8, True),
    ):
        runs.append(toy(tmp_path / folder, epochs=steps, resume=resume, **options))
        runs[-1].train()
        release(runs[-1])
    whole, _, resumed = runs
    assert len(resumed.model.seen) == 2
    assert_same_run(whole, resumed)


def test_passes_of_an_endless_sampler() -> None:
    data = NoisyData()  # of eight
    sampler = InfiniteSampler(data, seed=0)
    sampler.rank, sampler.world_size = 1, 3
    turns = turns_of(sampler)  # at 1, 4, 7, 10, ...
    assert [next(turns) for _ in range(6)] == [0, 0, 0, 1, 1, 2]


def test_who_is_left_alone() -> None:
    """Loaders without workers, and samplers that do not tell their pass."""
    data = NoisyData()
    sampler = DefaultSampler(data, seed=0)
    assert not seed_samples(DataLoader(data, 2, sampler=sampler))
    assert not seed_samples(DataLoader(data, 2, num_workers=1))
    loader = DataLoader(data, 2, sampler=sampler, num_workers=1)
    assert seed_samples(loader) and not seed_samples(loader)
    assert isinstance(loader.dataset, SeededSamples)
    assert isinstance(loader.batch_sampler, NumberedBatches)
    assert len(loader) == 4 and len(loader.dataset) == 8
    assert loader.dataset.metainfo is data.metainfo
    sampler.set_epoch(5)
    assert all(item[1:] == (0, 5) for batch in loader.batch_sampler for item in batch)
