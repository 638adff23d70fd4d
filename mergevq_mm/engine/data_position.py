"""Where a run stands in its data, and a start from there that loads nothing twice.

mmengine starts an interrupted epoch from its first batch, and iteration-based loops
load and throw away all batches of the run so far. Here batches that were used are
passed over as lists of indices, before any file is read.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator, Mapping
from typing import Any

from mmengine.dataset import DefaultSampler, InfiniteSampler
from mmengine.dist import get_world_size
from mmengine.logging import print_log
from mmengine.runner import EpochBasedTrainLoop, Runner
from torch.utils.data import DataLoader, IterableDataset

from .accumulation import each_wrapper
from .random_state import set_rng_state
from .skipped_batches import SkippedBatches


def iterate_from(loader: DataLoader, skip: int, rest: int = 0) -> Iterator[Any]:
    """Start a pass over a data loader after some of its batches.

    Args:
        loader (DataLoader): The loader.
        skip (int): Number of batches to leave out. Their files are not read, unless
            the data set can only be read from its start.
        rest (int): Samples to leave out beyond, see :class:`SkippedBatches`. Defaults
            to 0.

    Returns:
        Iterator: The remaining batches.
    """
    indexed = isinstance(loader, DataLoader) and not isinstance(
        loader.dataset, IterableDataset
    )
    if not indexed:
        return itertools.islice(iter(loader), skip, None)
    name = 'sampler' if loader.batch_sampler is None else 'batch_sampler'
    sampler = getattr(loader, name)
    # Workers of an earlier pass hold its order.
    loader._iterator = None
    # torch lets nobody assign a sampler, as its iterators would not see it; the one
    # that starts here does.
    late = vars(loader)[name] = SkippedBatches(sampler, skip, rest)
    try:
        return iter(loader)
    finally:
        late.skip = late.rest = 0  # workers that stay begin their next pass with it
        vars(loader)[name] = sampler


class ResumedLoader:
    """A data loader whose next pass begins where a stopped run was.

    Args:
        loader (DataLoader): The loader.
        skip (int): Number of batches that were used.
        state (Mapping[str, Any], optional): Random states to set once the pass has
            begun, a value of :func:`~.random_state.get_rng_state`.
        rest (int): Samples that were used beyond, see :class:`SkippedBatches`. Defaults
            to 0.
    """

    def __init__(
        self,
        loader: DataLoader,
        skip: int,
        state: Mapping[str, Any] | None,
        rest: int = 0,
    ) -> None:
        self.loader = loader
        self._skip = skip
        self._rest = rest
        self._state = state

    def __iter__(self) -> Iterator[Any]:
        """Iterate over the remaining batches."""
        iterator = iterate_from(self.loader, self._skip, self._rest)  # draws a seed
        if self._state is not None:
            set_rng_state(self._state)
        yield from iterator

    def __len__(self) -> int:
        """Count the batches of a whole pass."""
        return len(self.loader)

    def __getattr__(self, name: str) -> Any:
        """Have what the loader has."""
        if name == 'loader':
            raise AttributeError(name)
        return getattr(self.loader, name)


class ResumedIterator:
    """The endless iterator of an iteration-based loop, where a stopped run was.

    The loop itself takes one batch for each iteration of the run so far and drops it;
    here those are None, and cost nothing where the order of the data is known.

    Args:
        iterator (Iterator): mmengine's endless iterator.
        asked (int): Number of batches that the loop will drop.
        done (int): Number of batches that were used; another one than ``asked`` where
            the batch size has changed.
        state (Mapping[str, Any], optional): Random states to set after them.
        rest (int): Samples that were used beyond, of an endless sampler. Defaults to 0.
    """

    def __init__(
        self,
        iterator: Any,
        asked: int,
        done: int,
        state: Mapping[str, Any] | None,
        rest: int = 0,
    ) -> None:
        self._iterator = iterator
        self._left = asked
        self._state = state
        if not _advance(iterator, done, rest):
            for _ in range(done):
                next(iterator)

    def __iter__(self) -> ResumedIterator:
        """Return itself."""
        return self

    def __next__(self) -> Any:
        """Give the next batch; None for one that was passed over."""
        self._left -= 1
        if self._left >= 0:
            return None
        if self._state is not None:
            set_rng_state(self._state)
            self._state = None
        return next(self._iterator)

    def __getattr__(self, name: str) -> Any:
        """Have what the iterator has."""
        if name == '_iterator':
            raise AttributeError(name)
        return getattr(self._iterator, name)


def _advance(iterator: Any, skip: int, rest: int) -> bool:
    """Move mmengine's endless iterator on; whether the order is known so that it can.

    Args:
        iterator (_InfiniteDataloaderIterator): Changed in place.
        skip (int): Number of batches.
        rest (int): Samples beyond them, which an endless sampler leaves out, too.
    """
    loader = getattr(iterator, '_dataloader', None)
    if not isinstance(loader, DataLoader):
        return False
    sampler = loader.sampler if loader.batch_sampler is None else loader.batch_sampler
    sampler = getattr(sampler, 'sampler', sampler)
    if isinstance(sampler, InfiniteSampler):
        iterator._iterator = iterate_from(loader, skip, rest)
        return True
    if isinstance(sampler, DefaultSampler):
        passes, within = divmod(skip, len(loader))
        if passes and not within:  # at the end of a pass, the next one not begun
            iterator._epoch, iterator._iterator = passes - 1, iter(())
            loader._iterator = None  # its workers may know another batch size
            return True
        iterator._epoch = passes
        sampler.set_epoch(passes)
        iterator._iterator = iterate_from(loader, within)
        return True
    return False


def sampler_of(loader: Any) -> Any:
    """The sampler that orders single items, or None.

    Args:
        loader (DataLoader): Any loader.
    """
    batches = getattr(loader, 'batch_sampler', None)
    return getattr(batches, 'sampler', None) or getattr(loader, 'sampler', None)


def _batch_size_of(loader: Any) -> int:
    """Samples of a batch of this process; 1 where nobody knows."""
    size = getattr(loader, 'batch_size', None)
    if size is None:
        size = getattr(getattr(loader, 'batch_sampler', None), 'batch_size', None)
    return size or 1


def _batches_a_step(optim_wrapper: Any) -> int:
    """Batches that an optimizer step takes, the largest number of all sides."""
    return max(
        getattr(wrapper, '_accumulative_counts', 1)
        for _, wrapper in each_wrapper(optim_wrapper)
    )


def get_data_state(
    runner: Runner, batches: int, offset: int = 0, piece: int = 0
) -> dict[str, Any]:
    """Describe where a run stands in its data.

    Args:
        runner (Runner): Of a training.
        batches (int): Batches of the current epoch that each process has used.
        offset (int): Samples that all processes together have used beyond these.
            Defaults to 0.
        piece (int): The batch size of the config, where another one keeps the step of a
            checkpoint. Defaults to 0.

    Returns:
        dict[str, Any]: ``batches``, ``batch_size`` and ``world_size``; ``samples`` of
        the current epoch that all processes together have used; ``accumulate``,
        batches a step; ``by_epoch``; ``length``, number of samples; ``seed`` of the
        sampler, None where it has none; ``piece`` if there is one.
    """
    loader = runner.train_dataloader
    seed = getattr(sampler_of(loader), 'seed', None)
    try:
        length = len(loader.dataset)
    except TypeError:  # a stream
        length = None
    size, world = _batch_size_of(loader), get_world_size()
    return dict(
        batches=int(batches),
        batch_size=size,
        world_size=world,
        samples=int(batches) * size * world + offset,
        accumulate=_batches_a_step(runner.optim_wrapper),
        by_epoch=isinstance(runner.train_loop, EpochBasedTrainLoop),
        length=length,
        seed=seed if isinstance(seed, int) else None,
        **(dict(piece=piece) if piece else {}),
    )


def set_sampler_seed(loader: Any, seed: int | None) -> None:
    """Order the data as the stopped run did.

    Args:
        loader (DataLoader): Of the training.
        seed (int, optional): What :func:`get_data_state` found.
    """
    sampler = sampler_of(loader)
    if seed is not None and isinstance(getattr(sampler, 'seed', None), int):
        sampler.seed = seed


def batches_done(saved: Mapping[str, Any], now: Mapping[str, Any]) -> tuple[int, int]:
    """Count the batches of the present size that the stopped epoch has used.

    Says so where batch size, number of processes or data set have changed.

    Args:
        saved (Mapping): :func:`get_data_state` of the stopped run.
        now (Mapping): Of this one, after :func:`~.elastic.keep_step`.

    Returns:
        tuple[int, int]: Batches that each process passes over, and the samples that all
        processes together have used beyond them.
    """
    names = ('batch_size', 'world_size', 'accumulate')
    step, other = ([state[name] for name in names] for state in (now, saved))
    if step != other and 'piece' not in now:
        (a, b, c), (x, y, z) = step, other
        print_log(
            f'An optimizer step takes {a * b * c} samples ({a} a process, {b} '
            f'processes, {c} batches), in the checkpoint it took {x * y * z} ({x}, '
            f'{y}, {z}): the run continues, but differs from an uninterrupted one. '
            'The learning rate stays as configured unless --auto-scale-lr is given.',
            logger='current',
            level=logging.WARNING,
        )
    if saved['length'] != now['length']:
        print_log(
            f'The data set holds {now["length"]} samples, in the checkpoint it held '
            f'{saved["length"]}: the order of the data changes.',
            logger='current',
            level=logging.WARNING,
        )
    used = saved['batches'] * saved['batch_size'] * saved['world_size']
    return divmod(saved.get('samples', used), now['batch_size'] * now['world_size'])
