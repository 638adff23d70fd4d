"""Samplers whose next pass begins where a stopped run was, on any processes."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator
from typing import Any

from mmengine.dataset import DefaultSampler, InfiniteSampler


class LateSampler:
    """What a sampler of mmengine has left, divided among the processes there are now.

    Args:
        sampler (DefaultSampler | InfiniteSampler): The sampler.
        used (int): Samples of the pass that all processes together have used.
    """

    def __init__(self, sampler: Any, used: int) -> None:
        self.inner = sampler
        self.used = used

    def __iter__(self) -> Iterator[int]:
        """Iterate over the indices of this process."""
        rank, world = self.inner.rank, self.inner.world_size
        whole = copy.copy(self.inner)
        whole.rank, whole.world_size = 0, 1
        if isinstance(whole, InfiniteSampler):
            rest = itertools.islice(whole._infinite_indices(), self.used, None)
        else:
            whole.num_samples = whole.total_size = len(whole.dataset)
            order = list(whole)
            rest = order[self.used :]
            if self.inner.round_up and rest:
                rest += itertools.islice(itertools.cycle(order), -len(rest) % world)
        return itertools.islice(rest, rank, None, world)

    def __getattr__(self, name: str) -> Any:
        """Have what the sampler has."""
        if name == 'inner':
            raise AttributeError(name)
        return getattr(self.inner, name)


def _with_sampler(batches: Any, sampler: LateSampler) -> Any:
    """A copy of a batch sampler, or of a wrapper, that takes other samples."""
    late = copy.copy(batches)
    if hasattr(batches, 'inner'):
        late.inner = _with_sampler(batches.inner, sampler)
    else:
        late.sampler = sampler
    return late


class SkippedBatches:
    """A batch sampler whose passes begin later, until ``skip`` and ``rest`` are 0.

    Args:
        sampler (Iterable): The batch sampler of a data loader.
        skip (int): Number of batches that a pass leaves out.
        rest (int): Samples that all processes together have used beyond those, fewer
            than a batch of each. Only samplers of mmengine know what to do with them.
            Defaults to 0.
    """

    def __init__(self, sampler: Any, skip: int, rest: int = 0) -> None:
        self.inner = sampler
        self.skip = skip
        self.rest = rest

    def __iter__(self) -> Iterator[Any]:
        """Iterate over lists of indices."""
        single = getattr(self.inner, 'sampler', self.inner)
        if self.rest and isinstance(single, (DefaultSampler, InfiniteSampler)):
            used = self.skip * self.inner.batch_size * single.world_size + self.rest
            iterator = iter(_with_sampler(self.inner, LateSampler(single, used)))
            first = list(itertools.islice(iterator, 1))  # at once, as below
            return itertools.chain(first, iterator)
        if self.skip and isinstance(single, InfiniteSampler):
            # Its passes share one endless series, which others have taken from.
            single.indices = single._indices_of_rank()
        iterator = iter(self.inner)
        # At once: mmengine sets the epoch of the sampler anew before the first batch.
        next(itertools.islice(iterator, self.skip, self.skip), None)
        return iterator

    def __len__(self) -> int:
        """Count the batches of a whole pass."""
        return len(self.inner)

    def __getattr__(self, name: str) -> Any:
        """Have what the sampler has."""
        if name == 'inner':  # while it is copied
            raise AttributeError(name)
        return getattr(self.inner, name)
