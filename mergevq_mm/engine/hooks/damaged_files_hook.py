"""Lists the files that a training could not read."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from typing import Any

from mmengine.dist import all_gather_object, is_main_process
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.runner import Runner

from mergevq_mm.registry import HOOKS
from mergevq_mm.utils.fileio import write_atomically


def iter_datasets(dataset: Any) -> Iterator[Any]:
    """Walk through a data set and those that it wraps or joins.

    Args:
        dataset (Any): A data set.

    Yields:
        Any: The data set, then its parts.
    """
    yield dataset
    inner = getattr(dataset, 'datasets', None) or [getattr(dataset, 'dataset', None)]
    for part in inner:
        if part is not None:
            yield from iter_datasets(part)


@HOOKS.register_module()
class DamagedFilesHook(Hook):
    """Writes ``work_dir/damaged_files.txt`` where a data set replaced bad images.

    Data sets that have ``bad_files()`` are asked after each epoch, on all ranks
    (:class:`~mergevq_mm.datasets.ImageFolder` has it); others are ignored.

    Args:
        filename (str): Name of the list. Defaults to ``'damaged_files.txt'``.
    """

    priority = 'LOW'

    def __init__(self, filename: str = 'damaged_files.txt') -> None:
        self.filename = filename
        self._known: set[str] = set()

    def after_train_epoch(self, runner: Runner) -> None:
        """Write the list if it has grown.

        Args:
            runner (Runner): The runner.
        """
        own = []
        for dataset in iter_datasets(runner.train_dataloader.dataset):
            if hasattr(dataset, 'bad_files'):
                own += dataset.bad_files()
        found = {path for paths in all_gather_object(own) for path in paths}
        if found <= self._known:
            return
        self._known |= found
        if not is_main_process():
            return
        target = os.path.join(runner.work_dir, self.filename)
        lines = ''.join(f'{path}\n' for path in sorted(self._known))
        write_atomically(lines.encode('utf-8', 'surrogateescape'), target)
        print_log(
            f'{len(self._known)} files of the training data cannot be read and were '
            f'replaced by others; they are listed in "{target}".',
            logger='current',
            level=logging.WARNING,
        )
