"""A training without a step is an error, not a success."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from mmengine.dataset import InfiniteSampler
from mmengine.dist import get_world_size
from torch.utils.data import DataLoader


class TrainingRefused(ValueError):
    """What somebody gave for a training cannot be trained with, says the message."""


@contextmanager
def refusing() -> Iterator[None]:
    """Tell what is wrong with what somebody gave from faults of the program.

    Raises:
        TrainingRefused: In the place of a ValueError of the block.
    """
    try:
        yield
    except ValueError as error:
        raise TrainingRefused(str(error)) from error


def check_steps(loader: Any, max_epochs: int, max_iters: int) -> None:
    """Refuse a training without a step.

    Args:
        loader (DataLoader): Of the training.
        max_epochs (int): Epochs to train.
        max_iters (int): Iterations to train.

    Raises:
        ValueError: If the images of a process do not fill a batch that may not be
            smaller, there are no images, or there is nothing to train.
    """
    try:
        images, batches = len(loader.dataset), len(loader)
    except (AttributeError, TypeError):  # a stream
        images = batches = None
    sampler = getattr(getattr(loader, 'batch_sampler', None), 'sampler', None)
    endless = isinstance(sampler, InfiniteSampler)
    if images == 0:
        raise ValueError('train_dataloader.dataset is empty: nothing can be trained.')
    if batches == 0 and not endless and isinstance(loader, DataLoader):
        ranks = get_world_size()
        share = f' on {ranks} processes' if ranks > 1 else ''
        raise ValueError(
            f'train_dataloader makes no batch: its {images} images{share} are fewer '
            f'than batch_size={loader.batch_size} each, and drop_last=True drops what '
            'does not fill a batch; set train_dataloader.batch_size to at most '
            f'{max(images // ranks, 1)} or train_dataloader.drop_last=False.'
        )
    if max_epochs < 1 or (batches != 0 and max_iters < 1):
        raise ValueError(
            f'train_cfg trains for {max_epochs} epochs and {max_iters} iterations: no '
            'step is made; set max_epochs or max_iters to 1 or more.'
        )
