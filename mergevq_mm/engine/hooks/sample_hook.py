"""Writes a grid of the images that an evaluation generates."""

from __future__ import annotations

from typing import Any

import numpy as np
from mmengine.dist import all_gather_object, get_world_size, is_main_process
from mmengine.runner import Runner

from mergevq_mm.registry import HOOKS
from mergevq_mm.visualization import sample_grid, to_uint8

from .pictures import DrawingHook, write_picture


@HOOKS.register_module()
class SampleVisualizationHook(DrawingHook):
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

    def __init__(self, num_images: int = 32, columns: int = 8) -> None:
        super().__init__(num_images=num_images, columns=columns)
        self.num_images = num_images
        self.columns = columns
        self._images: list[tuple[int, np.ndarray]] = []  # with their numbers

    def _start(self, runner: Runner, testing: bool) -> None:
        self._images = []

    def _collect(
        self, runner: Runner, data_batch: Any, outputs: Any, testing: bool
    ) -> None:
        """Keep images until there are enough."""
        # Of R processes each has every R-th image.
        share = -(-self.num_images // get_world_size())
        for sample in (outputs or ())[: share - len(self._images)]:
            number = sample.get('sample_number', len(self._images))
            image = to_uint8(sample.fake_img.flip(0) / 255)  # BGR
            self._images.append((number, image))

    def _draw(self, runner: Runner, testing: bool) -> None:
        parts, self._images = all_gather_object(self._images), []
        numbered = sorted((n for part in parts for n in part), key=lambda pair: pair[0])
        if not numbered or not is_main_process():
            return
        images = [image for _, image in numbered[: self.num_images]]
        write_picture(runner, 'samples', sample_grid(images, self.columns), testing)
