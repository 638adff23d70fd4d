"""What the hooks that draw have in common."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from mmengine.hooks import Hook
from mmengine.runner import EpochBasedTrainLoop, Runner

from mergevq_mm.visualization import save_png


class DrawingHook(Hook):
    """Collects while a validation or a test runs, and draws when it has ended.

    Args:
        interval (int): Draw at every so manyth validation, beginning with the first.
            Defaults to 1.
        **at_least: More numbers of the subclass that must be at least 1.

    Raises:
        ValueError: If a number is less than 1.
    """

    priority = 'NORMAL'

    def __init__(self, interval: int = 1, **at_least: int) -> None:
        at_least_one(self, interval=interval, **at_least)
        self.interval = interval
        self._validations = 0
        self._drawing = True

    def _start(self, runner: Runner, testing: bool) -> None:
        """Forget what was collected, choose what to collect."""

    def _collect(
        self, runner: Runner, data_batch: Any, outputs: Any, testing: bool
    ) -> None:
        """Look at a batch and what the model made of it."""

    def _draw(self, runner: Runner, testing: bool) -> None:
        """Draw and write."""

    def _before_epoch(self, runner: Runner, mode: str = 'train') -> None:
        if mode == 'train':
            return
        self._drawing = mode == 'test' or self._validations % self.interval == 0
        self._validations += mode == 'val'
        if self._drawing:
            self._start(runner, mode == 'test')

    def _after_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Any = None,
        outputs: Any = None,
        mode: str = 'train',
    ) -> None:
        if mode != 'train' and self._drawing:
            self._collect(runner, data_batch, outputs, mode == 'test')

    def _after_epoch(self, runner: Runner, mode: str = 'train') -> None:
        if mode != 'train' and self._drawing:
            self._draw(runner, mode == 'test')


def write_picture(
    runner: Runner, name: str, page: np.ndarray, testing: bool = False
) -> str:
    """Write ``work_dir/vis_data/<name>_<step>.png`` and tell the visualizer.

    Args:
        runner (Runner): Of the run.
        name (str): What is shown.
        page (np.ndarray): H×W×3 uint8, RGB.
        testing (bool): Whether it is of a test: the step is 'test'. Defaults to False.

    Returns:
        str: Path of the file.
    """
    step = 0
    suffix = 'test'
    if not testing:
        by_epoch = isinstance(runner._train_loop, EpochBasedTrainLoop)
        step = runner.epoch if by_epoch else runner.iter
        suffix = f'{"epoch" if by_epoch else "iter"}_{step}'
    path = os.path.join(runner.work_dir, 'vis_data', f'{name}_{suffix}.png')
    save_png(path, page)
    runner.visualizer.add_image(name, page, step)
    return path


def at_least_one(hook: object, **values: int) -> None:
    """Refuse numbers below 1.

    Args:
        hook (object): Whose arguments they are.
        **values: By name.

    Raises:
        ValueError: If one is less than 1.
    """
    for name, value in values.items():
        if value < 1:
            raise ValueError(
                f'{name}={value} of {type(hook).__name__} must be at least 1; remove '
                'the hook to draw nothing.'
            )
