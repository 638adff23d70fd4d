"""The step and the data of a run that goes on with another number of processes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from mmengine.dataset import DefaultSampler, InfiniteSampler
from mmengine.optim import OptimWrapper
from torch import nn
from torch.utils.data import BatchSampler, DataLoader, default_collate

from mergevq_mm.engine.data_position import iterate_from
from mergevq_mm.engine.elastic import (
    PieceCollate,
    Pieces,
    PiecewiseStep,
    keep_step,
    share_of,
)
from mergevq_mm.engine.sample_seeds import NumberedBatches
from mergevq_mm.engine.skipped_batches import LateSampler, SkippedBatches

DATA = list(range(24))


def state(**kwargs: Any) -> dict:
    return {**dict(batch_size=4, world_size=4, accumulate=1), **kwargs}


def of_rank(sampler: Any, rank: int, world: int) -> Any:
    sampler.rank, sampler.world_size = rank, world
    sampler.num_samples = -(-len(DATA) // world)
    sampler.total_size = sampler.num_samples * world
    return sampler


@pytest.mark.parametrize('worlds', [(4, 2, 4), (4, 3, 2), (1, 5, 3)])
@pytest.mark.parametrize('size', [1, 2])
def test_each_sample_is_used_once(worlds: tuple[int, ...], size: int) -> None:
    """Two steps with each number of processes, then the rest of the epoch."""
    sampler = DefaultSampler(DATA, seed=7)
    sampler.set_epoch(3)
    seen: list[int] = []
    for world, steps in zip(worlds, (2, 2, len(DATA))):
        skip, rest = divmod(len(seen), size * world)
        found = []
        for rank in range(world):
            batches = BatchSampler(of_rank(sampler, rank, world), size, False)
            found += list(SkippedBatches(batches, skip, rest))[:steps]
        seen += [index for batch in found for index in batch]
    assert set(seen) == set(DATA)
    # Twice comes only what fills the last batch of all ranks.
    assert len(seen) - len(DATA) < worlds[-1]


def test_an_endless_order_goes_on() -> None:
    whole = InfiniteSampler(DATA, seed=1)._infinite_indices()
    series = [next(whole) for _ in range(60)]
    for world in (2, 3):
        ranks = []
        for rank in range(world):
            sampler = InfiniteSampler(DATA, seed=1)
            late = iter(LateSampler(of_rank(sampler, rank, world), used=29))
            ranks.append([next(late) for _ in range(5)])
        joined = [i for group in zip(*ranks) for i in group]
        assert joined == series[29 : 29 + 5 * world]


def test_numbers_of_late_samples() -> None:
    """Workers draw the same for a sample, whichever process reads it."""
    sampler = DefaultSampler(DATA, seed=7)
    sampler.set_epoch(3)
    numbered = NumberedBatches(BatchSampler(sampler, 4, False))
    expected = [item for batch in numbered for item in batch]
    late = [item for batch in SkippedBatches(numbered, 1, 3) for item in batch]
    assert late == expected[7:]
    endless = InfiniteSampler(DATA, seed=7)
    numbered = NumberedBatches(BatchSampler(endless, 4, False))
    late = iter(SkippedBatches(numbered, 5, 2))  # 22 samples of 24
    assert [turn for _, _, turn in next(late)] == [0, 0, 1, 1]


def test_a_loader_that_starts_within_a_batch_is_whole_the_next_time() -> None:
    loader = DataLoader(DATA, 4, sampler=DefaultSampler(DATA, seed=0))
    order = torch.cat(list(loader))
    assert torch.equal(torch.cat(list(iterate_from(loader, 1, 3))), order[7:])
    assert torch.equal(torch.cat(list(loader)), order)


def test_the_share_of_a_process() -> None:
    assert share_of(state(), state(world_size=2)) == 8
    assert share_of(state(), state(world_size=1)) == 16
    assert share_of(state(), state(world_size=8)) == 2
    assert share_of(state(), state(world_size=3)) is None  # 16 samples
    assert share_of(state(), state()) is None  # nothing has changed
    assert share_of(state(), state(world_size=2, batch_size=8)) is None  # asked for
    assert share_of(state(), state(world_size=2, accumulate=2)) is None
    # 4 -> 2 -> 4, and 4 -> 2 -> 2.
    halved = state(world_size=2, batch_size=8, piece=4)
    assert share_of(halved, state()) == 4
    assert share_of(halved, state(world_size=2)) == 8


def step_of(model: nn.Module) -> Any:
    def train_step(data: torch.Tensor, optim_wrapper: OptimWrapper) -> dict:
        loss = model(data).square().mean()
        if not torch.isfinite(loss):
            return dict(loss=loss, nonfinite=torch.ones(()))
        optim_wrapper.update_params(loss)
        return dict(loss=loss, nonfinite=torch.zeros(()))

    return train_step


def wrapped(accumulate: int) -> tuple[nn.Module, OptimWrapper]:
    torch.manual_seed(0)
    model = nn.Linear(3, 1)
    wrapper = OptimWrapper(
        torch.optim.SGD(model.parameters(), lr=0.1), accumulative_counts=accumulate
    )
    wrapper.initialize_count_status(model, 0, 5)
    return model, wrapper


@pytest.mark.parametrize('accumulate', [1, 2])
def test_pieces_learn_what_a_batch_learns(accumulate: int) -> None:
    """Five iterations, of which the last has fewer samples and one is not finite."""
    torch.manual_seed(1)
    batches = [torch.randn(n, 3) for n in (6, 6, 6, 6, 2)]
    if accumulate == 1:
        batches[2][4] = float('nan')
    whole, wrapper = wrapped(accumulate)
    step = step_of(whole)
    expected = [step(batch, wrapper) for batch in batches]
    model, wrapper = wrapped(accumulate)
    step = PiecewiseStep(step_of(model))
    collate = PieceCollate(default_collate, 2)
    logs = [step(collate(list(batch)), wrapper) for batch in batches]
    for a, b in zip(expected, logs):
        assert a['nonfinite'] == b['nonfinite']
        assert a['nonfinite'] or torch.allclose(a['loss'], b['loss'])
    for a, b in zip(whole.parameters(), model.parameters()):
        assert torch.allclose(a, b, atol=1e-6)
    assert wrapper._accumulative_counts == accumulate
    skipped = 1 if accumulate == 1 else 0
    assert wrapper._inner_count == 5 - skipped


def test_pieces_of_equal_size() -> None:
    pieces = PieceCollate(list, 4)(list(range(6)))
    assert pieces == [[0, 1, 2], [3, 4, 5]] and isinstance(pieces, Pieces)


def test_hooks_read_pieces_like_a_batch() -> None:
    batch = [dict(x=torch.full((2,), i), names=[str(i)]) for i in range(5)]
    pieces = PieceCollate(
        lambda part: dict(
            x=torch.stack([item['x'] for item in part]),
            names=[name for item in part for name in item['names']],
        ),
        2,
    )(batch)
    assert len(pieces) == 3 and torch.equal(pieces['x'][:, 0], torch.arange(5))
    assert pieces.get('names') == list('01234') and pieces.get('other') is None
    assert pieces[0]['names'] == ['0']


def test_the_loader_takes_the_share() -> None:
    sampler = of_rank(DefaultSampler(DATA, seed=0), 1, 2)
    loader = DataLoader(DATA, 4, sampler=sampler)
    loop = SimpleNamespace(dataloader=loader)
    runner = SimpleNamespace(train_loop=loop, hooks=[])
    assert keep_step(runner, state(), state(world_size=2)) == 4
    sizes = [[len(piece) for piece in batch] for batch in loader]
    assert sizes == [[4, 4], [4]] and len(loader) == loader.batch_size // 4 == 2
    rebuild = SimpleNamespace(train_loop=loop, hooks=[SimpleNamespace(rebuild=True)])
    assert keep_step(rebuild, state(), state(world_size=2)) == 0
