"""Batches that were used are passed over without being read."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from mmengine.dataset import DefaultSampler, InfiniteSampler
from mmengine.runner.loops import _InfiniteDataloaderIterator
from torch.utils.data import BatchSampler, DataLoader, Dataset, IterableDataset

from mergevq_mm.engine import data_position
from mergevq_mm.engine.data_position import (
    ResumedIterator,
    ResumedLoader,
    batches_done,
    iterate_from,
)
from mergevq_mm.engine.random_state import get_rng_state


class Numbers(Dataset):
    """Item i is i; remembers what was read, in this process."""

    def __init__(self, size: int = 10) -> None:
        self.size = size
        self.read: list[int] = []

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> int:
        self.read.append(index)
        return index


class Stream(IterableDataset):
    def __iter__(self) -> Any:
        return iter(range(10))


def loader(kind: type = DefaultSampler, **kwargs: Any) -> DataLoader:
    data = Numbers()
    return DataLoader(data, 3, sampler=kind(data, seed=5), **kwargs)


def numbers(batches: Any, count: int | None = None) -> list[list[int]]:
    found = []
    for batch in batches:
        found.append(batch.tolist())
        if len(found) == count:
            break
    return found


@pytest.mark.parametrize('skip', [0, 1, 3, 4, 9])
def test_a_pass_starts_later_and_reads_nothing_twice(skip: int) -> None:
    expected = numbers(loader())
    late = loader()
    assert numbers(iterate_from(late, skip)) == expected[skip:]
    assert late.dataset.read == sum(expected[skip:], [])
    assert numbers(late) == expected  # the next pass is a whole one


def test_with_workers_that_stay() -> None:
    late = loader(num_workers=1, persistent_workers=True)
    expected = numbers(late)
    assert numbers(iterate_from(late, 2)) == expected[2:]
    assert numbers(late) == expected
    late._iterator._shutdown_workers()


def test_with_batch_samplers_single_items_and_streams() -> None:
    data = Numbers()
    batches = BatchSampler(DefaultSampler(data, seed=5), 4, drop_last=True)
    custom = DataLoader(data, batch_sampler=batches)
    expected = numbers(custom)
    assert len(expected) == 2
    assert numbers(iterate_from(custom, 1)) == expected[1:]
    single = DataLoader(data, batch_size=None, sampler=DefaultSampler(data, seed=5))
    assert list(iterate_from(single, 7)) == list(single)[7:]
    stream = DataLoader(Stream(), 4)
    assert numbers(iterate_from(stream, 1)) == [[4, 5, 6, 7], [8, 9]]


def test_random_states_are_set_once_the_pass_has_begun() -> None:
    torch.manual_seed(1)
    state = get_rng_state()
    expected = torch.rand(1)
    resumed = ResumedLoader(loader(), 2, state)
    torch.manual_seed(2)
    batches = iter(resumed)
    next(batches)
    assert torch.equal(torch.rand(1), expected)
    assert len(resumed) == 4 and resumed.batch_size == 3  # as the loader's


@pytest.mark.parametrize('kind', [DefaultSampler, InfiniteSampler])
@pytest.mark.parametrize('done', [0, 2, 4, 5, 8])
@pytest.mark.parametrize('workers', [0, 1])
def test_the_endless_iterator_goes_on(kind: type, done: int, workers: int) -> None:
    if workers and done != 5:
        return  # one case is enough, they are slow
    options = dict(num_workers=workers, persistent_workers=bool(workers))
    whole = numbers(_InfiniteDataloaderIterator(loader(kind)), 12)
    late = loader(kind, **options)
    resumed = ResumedIterator(_InfiniteDataloaderIterator(late), done, done, None)
    assert [next(resumed) for _ in range(done)] == [None] * done
    assert late.dataset.read == []
    assert numbers(resumed, 12 - done) == whole[done:]
    assert resumed._dataloader is late


def test_an_unknown_order_is_loaded_and_dropped() -> None:

    data = Numbers()
    plain = DataLoader(data, 3, sampler=range(10))
    whole = numbers(_InfiniteDataloaderIterator(plain), 7)
    resumed = ResumedIterator(_InfiniteDataloaderIterator(plain), 5, 5, None)
    assert [next(resumed) for _ in range(5)] == [None] * 5
    assert numbers(resumed, 2) == whole[5:]


def state(**kwargs: Any) -> dict:
    usual = dict(batches=6, batch_size=4, world_size=2, accumulate=1, length=100)
    return {**usual, **kwargs}


def test_another_number_of_processes_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    logged: list[str] = []
    monkeypatch.setattr(
        data_position, 'print_log', lambda text, **kwargs: logged.append(text)
    )
    assert batches_done(state(), state(batches=0)) == (6, 0) and not logged
    # 6 batches x 4 samples x 2 processes are 12 batches x 4 samples of one.
    assert batches_done(state(), state(world_size=1)) == (12, 0)
    assert 'takes 4 samples (4 a process, 1 processes, 1 batches)' in logged[-1]
    assert 'in the checkpoint it took 8 (4, 2, 1)' in logged[-1]
    assert '--auto-scale-lr' in logged[-1]
    assert batches_done(state(), state(batch_size=5)) == (4, 8)  # of 48 samples
    assert batches_done(state(), state(accumulate=2)) == (6, 0) and len(logged) == 3
    # What an earlier change has left counts, too; the kept step is no change.
    assert batches_done(state(samples=50), state()) == (6, 2)
    kept = state(batch_size=8, world_size=1, piece=4)
    assert batches_done(state(), kept) == (6, 0) and len(logged) == 3
    batches_done(state(), state(length=99))
    assert 'holds 99 samples, in the checkpoint it held 100' in logged[-1]
