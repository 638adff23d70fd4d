"""Views that depend on their number alone."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from mmengine.dataset import BaseDataset

from mergevq_mm.datasets import SeededViews


class Numbers(BaseDataset):
    """Ten numbers, each read with three draws beside it."""

    def load_data_list(self) -> list[dict]:
        return [dict(number=i) for i in range(10)]

    def __getitem__(self, idx: int) -> tuple:
        drawn = random.random(), np.random.rand(), torch.rand(()).item()
        return self.get_data_info(idx)['number'], *drawn


def test_views_depend_on_their_number_alone():
    views = SeededViews(Numbers(), times=3)
    assert len(views) == 30
    first = [views[i] for i in range(30)]
    assert [sample[0] for sample in first] == 3 * list(range(10))
    assert len({sample[1:] for sample in first}) == 30  # all different
    assert all(len(set(sample[1:])) == 3 for sample in first)
    assert [views[i] for i in reversed(range(30))] == first[::-1]
    other = SeededViews(Numbers(), times=3, seed=1)
    assert other[0][1:] != first[0][1:]


def test_the_process_goes_on_where_it_was():
    def draw() -> tuple:
        return random.random(), np.random.rand(), torch.rand(()).item()

    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(5)
    expected = draw()
    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(5)
    SeededViews(Numbers(), times=2)[3]
    assert draw() == expected


def test_no_views():
    with pytest.raises(ValueError, match='times=0 leaves no views; give at least 1'):
        SeededViews(Numbers(), times=0)
