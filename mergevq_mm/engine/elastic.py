"""The same optimizer step on another number of processes.

A run of four processes that goes on with two keeps its iterations: each process takes
the samples that two have taken, in pieces of no more than the batch size of the config,
whose gradients are accumulated. So the order of the data, the length of an epoch, the
schedules and the effective batch are those of the checkpoint. What looks at a whole
batch (a batch norm, the entropy of the codes) sees a piece, as wherever gradients
accumulate.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from mmengine.dataset import DefaultSampler, InfiniteSampler
from mmengine.logging import print_log
from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.runner import EpochBasedTrainLoop, Runner
from torch import Tensor

from .accumulation import each_wrapper


def share_of(saved: Mapping[str, Any], now: Mapping[str, Any]) -> int | None:
    """How many samples of the checkpoint's iterations fall to a process of this run.

    Args:
        saved (Mapping): :func:`~.data_position.get_data_state` of the stopped run.
        now (Mapping): Of this one.

    Returns:
        int | None: None where the samples cannot be divided evenly, or where the config
        asks for another step than before.
    """
    if now['world_size'] == saved['world_size'] and 'piece' not in saved:
        return None
    piece = saved.get('piece', saved['batch_size'])
    if (piece, saved['accumulate']) != (now['batch_size'], now['accumulate']):
        return None
    share, rest = divmod(saved['batch_size'] * saved['world_size'], now['world_size'])
    return share if share and not rest else None


class Pieces(list):
    """The batch of an iteration in pieces that fit into memory.

    Hooks find in it what they look for in a batch: under a name stand the tensors or
    lists of all pieces, joined.
    """

    def __getitem__(self, key: Any) -> Any:
        """Get a piece by its index, or what all pieces hold under a name."""
        if not isinstance(key, str):
            return super().__getitem__(key)
        found = [piece[key] for piece in self]
        if isinstance(found[0], Tensor):
            return torch.cat(found)
        return [item for part in found for item in part]

    def get(self, key: str, default: Any = None) -> Any:
        """Get what all pieces hold under a name, or the default."""
        return self[key] if self and key in super().__getitem__(0) else default


class PieceCollate:
    """Makes several batches of the samples of one iteration.

    Args:
        collate (Callable): Makes a batch of a list of samples.
        size (int): The largest number of samples of a piece.
    """

    def __init__(self, collate: Callable[[list], Any], size: int) -> None:
        self.collate, self.size = collate, size

    def __call__(self, samples: list) -> Pieces:
        """Make as few pieces as there may be, of one size if they can be."""
        number = -(-len(samples) // self.size)
        ends = [len(samples) * i // number for i in range(number + 1)]
        return Pieces(self.collate(samples[a:b]) for a, b in zip(ends, ends[1:]))


class PiecewiseStep:
    """A ``train_step`` that goes through the pieces of a batch.

    Args:
        train_step (Callable): That of the model.
    """

    def __init__(self, train_step: Callable[..., dict]) -> None:
        self.train_step = train_step

    def __call__(
        self, data: Any, optim_wrapper: OptimWrapper | OptimWrapperDict
    ) -> dict[str, Any]:
        """Learn from a batch.

        Where a piece is not finite, the whole iteration is skipped.

        Args:
            data (Pieces | Any): A batch.
            optim_wrapper (OptimWrapper | OptimWrapperDict): Of the run.

        Returns:
            dict[str, Any]: Means of what the pieces have to say; of the flags
            ``nonfinite`` and ``dropped`` the largest.
        """
        if not isinstance(data, Pieces):
            return self.train_step(data, optim_wrapper=optim_wrapper)
        found = []
        with in_pieces(optim_wrapper, len(data)):
            for piece in data:
                found.append(self.train_step(piece, optim_wrapper=optim_wrapper))
                if float(found[-1].get('nonfinite', 0)):
                    forget(optim_wrapper)
                    break
        return mean_of(found)


@contextmanager
def in_pieces(
    optim_wrapper: OptimWrapper | OptimWrapperDict, number: int
) -> Iterator[None]:
    """Let optimizers count pieces in the place of iterations.

    Args:
        optim_wrapper (OptimWrapper | OptimWrapperDict): Of the run.
        number (int): Pieces of the present iteration.
    """
    names = ('_accumulative_counts', '_inner_count', '_max_counts', '_remainder_counts')

    def scale(by: Callable[[int], int]) -> None:
        for _, wrapper in each_wrapper(optim_wrapper):
            for name in names:
                count = getattr(wrapper, name)
                setattr(wrapper, name, by(count) if count > 0 else count)

    scale(lambda count: count * number)
    try:
        yield
    finally:
        scale(lambda count: count // number)


@torch.no_grad()
def forget(optim_wrapper: OptimWrapper | OptimWrapperDict) -> None:
    """Drop the gradients that wait, and begin to count anew.

    Args:
        optim_wrapper (OptimWrapper | OptimWrapperDict): Changed in place.
    """
    for _, wrapper in each_wrapper(optim_wrapper):
        wrapper._inner_count -= wrapper._inner_count % wrapper._accumulative_counts
        wrapper.zero_grad()


def mean_of(found: list[dict[str, Any]]) -> dict[str, Any]:
    """Join what the pieces of a batch have logged.

    Args:
        found (list[dict[str, Any]]): Of each piece, scalars by name.

    Returns:
        dict[str, Any]: Scalars by name.
    """
    joined: dict[str, Any] = {}
    for name in dict.fromkeys(name for log in found for name in log):
        values = [torch.as_tensor(log[name]) for log in found if name in log]
        stacked: Tensor = torch.stack([value.detach().float() for value in values])
        flag = name in ('nonfinite', 'dropped')
        joined[name] = stacked.max() if flag else stacked.mean()
    return joined


def keep_step(runner: Runner, saved: Mapping[str, Any], now: Mapping[str, Any]) -> int:
    """Let the iterations of a resumed run have the samples of the checkpoint's.

    Args:
        runner (Runner): While it loads the checkpoint; its loop is changed in place.
        saved (Mapping): :func:`~.data_position.get_data_state` of the stopped run.
        now (Mapping): Of this one.

    Returns:
        int: Samples of a piece, the batch size of the config; 0 where the step is not
        kept.
    """
    loop, share = runner.train_loop, share_of(saved, now)
    loader, size = loop.dataloader, now['batch_size']
    batches = getattr(loader, 'batch_sampler', None)
    sampler = getattr(batches, 'sampler', None)
    known = isinstance(sampler, (DefaultSampler, InfiniteSampler))
    rebuilt = any(getattr(hook, 'rebuild', False) for hook in runner.hooks)
    if share is None or rebuilt or not known:
        return 0
    while hasattr(batches, 'inner'):
        batches = batches.inner
    batches.batch_size = vars(loader)['batch_size'] = share
    if share > size:
        loader.collate_fn = PieceCollate(loader.collate_fn, size)
    if isinstance(loop, EpochBasedTrainLoop):
        loop._max_iters = loop.max_epochs * len(loader)
    before, world = saved['world_size'], now['world_size']
    if before != world:
        how = f', {-(-share // size)} pieces whose gradients add up' * (share > size)
        print_log(
            f'The run goes on with {world} in the place of {before} processes: an '
            f'iteration keeps its {share * world} samples, {share} a process{how}. To '
            'follow the batch size of the config instead: --rebuild-schedules.',
            logger='current',
            level=logging.WARNING,
        )
    return size
