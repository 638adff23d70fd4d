"""Writes a grid of the images that an evaluation generates."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from mmengine.dist import all_gather_object, get_world_size, is_main_process
from mmengine.hooks import Hook
from mmengine.runner import EpochBasedTrainLoop, Runner
from mmengine.structures import BaseDataElement

from mergevq_mm.registry import HOOKS
from mergevq_mm.visualization import sample_grid, save_png, to_uint8


@HOOKS.register_module()
class SampleVisualizationHook(Hook):
    """Shows the first generated images of a validation or a test as a grid.

    They are those that are evaluated, of all processes in the order of their numbers:
    nothing is generated again, the weights are those of the evaluation (the average,
    where there is one), and as images are numbered, the same place shows the same class
    and noise each time, whatever the number of processes.
    The grid is written to ``work_dir/vis_data/samples_<step>.png``
    (``samples_test.png`` when testing) and given to the runner's visualizer.

    mmagic's ``VisualizationHook`` works too, for no more images than a training batch
    has: ``dict(type='VisualizationHook', n_samples=3, vis_kwargs_list=dict(type=
    'Arguments', name='classes', forward_kwargs=dict(labels=[7, 8, 9], first=0)))``. But
    it generates in the middle of the training, with the raw weights, and in a run of
    epochs each picture replaces that of the epoch before.

    Args:
        num_images (int): Images of the grid. Defaults to 32.
        columns (int): Images of a row. Defaults to 8.

    Raises:
        ValueError: If a number is less than 1.
    """

    priority = 'NORMAL'

    def __init__(self, num_images: int = 32, columns: int = 8) -> None:
        for name, value in (('num_images', num_images), ('columns', columns)):
            if value < 1:
                raise ValueError(
                    f'{name}={value} of SampleVisualizationHook must be at least 1; '
                    'remove the hook to draw nothing.'
                )
        self.num_images = num_images
        self.columns = columns
        self._images: list[tuple[int, np.ndarray]] = []  # with their numbers

    def before_val_epoch(self, runner: Runner) -> None:
        """Start a new grid."""
        self._images = []

    def before_test_epoch(self, runner: Runner) -> None:
        """Start a new grid."""
        self._images = []

    def after_val_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Any = None,
        outputs: Sequence[BaseDataElement] | None = None,
    ) -> None:
        """Keep images until there are enough."""
        self._keep(outputs or ())

    def after_test_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Any = None,
        outputs: Sequence[BaseDataElement] | None = None,
    ) -> None:
        """Keep images until there are enough."""
        self._keep(outputs or ())

    def after_val_epoch(
        self, runner: Runner, metrics: dict[str, float] | None = None
    ) -> None:
        """Write the grid."""
        by_epoch = isinstance(runner._train_loop, EpochBasedTrainLoop)
        step = runner.epoch if by_epoch else runner.iter
        self._write(runner, f'{"epoch" if by_epoch else "iter"}_{step}', step)

    def after_test_epoch(
        self, runner: Runner, metrics: dict[str, float] | None = None
    ) -> None:
        """Write the grid."""
        self._write(runner, 'test', 0)

    def _keep(self, outputs: Sequence[BaseDataElement]) -> None:
        # Of R processes each has every R-th image.
        share = -(-self.num_images // get_world_size())
        for sample in outputs[: share - len(self._images)]:
            number = sample.get('sample_number', len(self._images))
            image = to_uint8(sample.fake_img.flip(0) / 255)  # BGR
            self._images.append((number, image))

    def _write(self, runner: Runner, suffix: str, step: int) -> None:
        parts, self._images = all_gather_object(self._images), []
        numbered = sorted((n for part in parts for n in part), key=lambda pair: pair[0])
        if not numbered or not is_main_process():
            return
        images = [image for _, image in numbered[: self.num_images]]
        page = sample_grid(images, self.columns)
        path = os.path.join(runner.work_dir, 'vis_data', f'samples_{suffix}.png')
        save_png(path, page)
        runner.visualizer.add_image('samples', page, step)
