"""Several random views of each image, that are the same whenever they are read."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from mmengine.dataset import BaseDataset, RepeatDataset

from mergevq_mm.registry import DATASETS


@DATASETS.register_module()
class SeededViews(RepeatDataset):
    """A data set repeated, in which each sample draws its transforms from its number.

    Sample i is view i // n of image i % n. Codes of augmented images are written from
    such views: a run that was stopped goes on with the very same ones.

    Args:
        dataset (BaseDataset | dict): The images, with random transforms.
        times (int): Views of each image.
        seed (int): Of all views. Defaults to 0.
        lazy_init (bool): Whether to read the list of images later. Defaults to False.

    Raises:
        ValueError: If there are no views.
    """

    def __init__(
        self,
        dataset: BaseDataset | dict,
        times: int,
        seed: int = 0,
        lazy_init: bool = False,
    ) -> None:
        if times < 1:
            raise ValueError(f'times={times} leaves no views; give at least 1.')
        super().__init__(dataset, times, lazy_init)
        self.seed = seed

    @property
    def data_root(self) -> str | None:
        """str, optional: That of the images."""
        return self.dataset.data_root

    def __getitem__(self, idx: int) -> Any:
        """Read a sample; the random states of the process are left as they were."""
        with seeded_by(self.seed, int(idx)):
            return super().__getitem__(idx)


@contextmanager
def seeded_by(*numbers: int) -> Iterator[None]:
    """Draw from streams that the numbers name, in python, numpy and torch."""
    seeds = np.random.SeedSequence(numbers).generate_state(3)
    states = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        random.seed(int(seeds[0]))
        np.random.seed(seeds[1])
        torch.manual_seed(int(seeds[2]))
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])
