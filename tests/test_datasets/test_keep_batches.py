"""Batches of one K: all images, as many batches as without, on each rank."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
from mmengine.dataset import DefaultSampler, InfiniteSampler
from torch.utils.data import RandomSampler

from mergevq_mm.datasets import SameKeepBatchSampler


class Images:
    """A data set of images that have a K each."""

    ragged = True

    def __init__(self, keeps: list[int]) -> None:
        self.keeps = keeps

    def __len__(self) -> int:
        return len(self.keeps)

    def keep_of(self, idx: int) -> int:
        return self.keeps[idx]


KEEPS = np.random.default_rng(0).choice([4, 9, 16], 50, p=[0.7, 0.2, 0.1]).tolist()


@pytest.mark.parametrize('drop_last', [False, True])
def test_batches_are_of_one_k(drop_last: bool) -> None:
    dataset = Images(KEEPS)
    sampler = DefaultSampler(dataset, shuffle=True, seed=3)
    batches = SameKeepBatchSampler(sampler, 4, drop_last)
    seen: Counter[int] = Counter()
    for epoch in range(60):
        sampler.set_epoch(epoch)
        found = list(batches)
        assert len(found) == len(batches) == (12 if drop_last else 13)
        for batch in found:
            assert len({dataset.keep_of(i) for i in batch}) == 1 and len(batch) <= 4
        used = [i for batch in found for i in batch]
        assert len(set(used)) == len(used) >= 41
        seen.update(used)
        assert found == list(batches)  # what a resumed run goes through again
    # None is always left over, not even of the rare K.
    assert len(seen) == 50 and min(seen.values()) > 15


def test_batches_of_ranks_and_without_an_end() -> None:
    dataset = Images(KEEPS)
    numbers = []
    for rank in range(3):
        sampler = DefaultSampler(dataset, shuffle=True, seed=3)
        sampler.rank, sampler.world_size = rank, 3
        sampler.num_samples, sampler.total_size = 17, 51
        numbers.append(len(list(SameKeepBatchSampler(sampler, 4))))
    assert numbers == [5, 5, 5]
    endless = SameKeepBatchSampler(InfiniteSampler(dataset, seed=0), 4)
    found = [batch for _, batch in zip(range(100), endless)]
    assert {len(batch) for batch in found} == {4}
    share = np.mean([dataset.keep_of(batch[0]) == 4 for batch in found])
    assert abs(share - np.mean(np.array(KEEPS) == 4)) < 0.05


def test_samplers_of_torch_and_batches_of_nothing() -> None:
    dataset = Images([4, 8] * 4)
    batches = SameKeepBatchSampler(RandomSampler(dataset), 2)
    assert sorted(idx for batch in batches for idx in batch) == list(range(8))
    for batch_size in (0, -1):
        with pytest.raises(ValueError, match=f'batch_size={batch_size} makes no batch'):
            SameKeepBatchSampler(RandomSampler(dataset), batch_size)


def test_images_of_all_k_are_refused() -> None:
    sampler = SimpleNamespace(dataset=[1, 2])
    with pytest.raises(ValueError, match='needs images that have a K each; give it'):
        SameKeepBatchSampler(sampler, 4)
