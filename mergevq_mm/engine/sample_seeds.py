"""Random numbers of data workers that follow from the sample, not from the worker.

The streams of workers cannot be saved, and which worker reads a sample depends on their
number. Here a worker seeds its streams for each sample, from the seed of the sampler,
the pass over the data and the number of the sample: any number of workers and of
processes, before and after a resume, reads the same.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from mmengine.dataset import DefaultSampler, InfiniteSampler
from torch.utils.data import DataLoader, Dataset

from .random_state import get_rng_state, set_rng_state

# A sample's index, and the seed and the pass that it is drawn with.
Numbered = tuple[int, int, int]


def seed_streams(*numbers: int) -> None:
    """Seed python, numpy and torch by numbers.

    Args:
        *numbers (int): Not negative. Each other list of numbers gives other streams.
    """
    seeds = np.random.SeedSequence(numbers).generate_state(3)
    random.seed(int(seeds[0]))
    np.random.seed(seeds[1])
    torch.default_generator.manual_seed(int(seeds[2]))


class SeededSamples(Dataset):
    """A data set whose samples are drawn from streams of their own, in workers.

    Args:
        dataset (Dataset): The data set.
    """

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        """Count the samples."""
        return len(self.dataset)

    def __getitem__(self, item: int | Numbered) -> Any:
        """Read a sample; with its seed and pass, as :class:`NumberedBatches` has it."""
        if not isinstance(item, tuple):
            return self.dataset[item]
        index, seed, turn = item
        seed_streams(seed, turn, index)
        return self.dataset[index]

    def __getattr__(self, name: str) -> Any:
        """Have what the data set has, but for ways around this class."""
        if name == 'dataset' or name.startswith('__'):
            raise AttributeError(name)
        return getattr(self.dataset, name)


class NumberedBatches:
    """A batch sampler that says with which seed and in which pass a sample is drawn.

    Args:
        batches (BatchSampler): One with a sampler of mmengine.
    """

    def __init__(self, batches: Any) -> None:
        self.inner = batches

    def __iter__(self) -> Iterator[list[Numbered]]:
        """Iterate over lists of numbered samples."""
        turns = None
        for batch in self.inner:
            if turns is None:  # the sampler reads its epoch with its first sample
                turns = turns_of(self.inner.sampler)
            seed = self.inner.sampler.seed
            yield [(index, seed, next(turns)) for index in batch]

    def __len__(self) -> int:
        """Count the batches of a pass."""
        return len(self.inner)

    def __getattr__(self, name: str) -> Any:
        """Have what the batch sampler has."""
        if name == 'inner':
            raise AttributeError(name)
        return getattr(self.inner, name)


def turns_of(sampler: Any) -> Iterator[int]:
    """The number of the pass that each sample of a rank belongs to.

    Args:
        sampler (DefaultSampler | InfiniteSampler | LateSampler): At its first sample.

    Returns:
        Iterator[int]: Endless.
    """
    used = getattr(sampler, 'used', 0)  # of a LateSampler
    inner = getattr(sampler, 'inner', sampler)
    if isinstance(inner, InfiniteSampler):
        places = itertools.count(used + inner.rank, inner.world_size)
        return (place // inner.size for place in places)
    return itertools.repeat(inner.epoch)


def seed_samples(loader: Any) -> bool:
    """Let the workers of a data loader draw by sample.

    Only samplers of mmengine know their pass; other loaders, and those without workers,
    whose numbers come from the stream of the process, are left alone.

    Args:
        loader (DataLoader): Changed in place.

    Returns:
        bool: Whether it was changed.
    """
    if not isinstance(loader, DataLoader) or not loader.num_workers:
        return False
    batches = loader.batch_sampler
    sampler = getattr(batches, 'sampler', None)
    known = isinstance(sampler, (DefaultSampler, InfiniteSampler))
    if not known or isinstance(batches, NumberedBatches):
        return False
    # torch lets nobody assign these, as workers that exist do not see it.
    vars(loader)['dataset'] = SeededSamples(loader.dataset)
    vars(loader)['batch_sampler'] = NumberedBatches(batches)
    return True


def seed_loop(loop: Any) -> None:
    """Let the workers of a training loop draw by sample, before its first batch.

    Those of a loop that counts iterations exist already, and are started anew.

    Args:
        loop (BaseLoop): Changed in place.
    """
    loader = loop.dataloader
    if seed_samples(loader) and hasattr(loop, 'dataloader_iterator'):
        state = get_rng_state()
        if isinstance(loader.batch_sampler.sampler, InfiniteSampler):
            sampler = loader.batch_sampler.sampler
            sampler.indices = sampler._indices_of_rank()  # workers have taken some
        loader._iterator = None
        loop.dataloader_iterator = type(loop.dataloader_iterator)(loader)
        set_rng_state(state)
