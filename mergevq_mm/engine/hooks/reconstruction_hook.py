"""Writes pictures of originals, merge maps and reconstructions at each validation."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from mmengine.dist import get_world_size, is_main_process
from mmengine.hooks import Hook
from mmengine.runner import EpochBasedTrainLoop, Runner
from mmengine.structures import BaseDataElement

from mergevq_mm.registry import HOOKS
from mergevq_mm.visualization import reconstruction_grid, save_png


@HOOKS.register_module()
class ReconstructionVisualizationHook(Hook):
    """Shows a few validation images as a grid, from the predictions that are evaluated.

    No second forward is made. The images are spread evenly over the first process's
    part of the data set, because folders are sorted by class. The grid is written to
    ``work_dir/vis_data/reconstruction_<step>.png`` (``reconstruction_test.png`` when
    testing) and given to the runner's visualizer with all its backends.

    Args:
        num_images (int): Rows of the grid. Defaults to 8.
        interval (int): Draw at every so manyth validation, beginning with the first.
            Defaults to 1.
        keeps (Sequence[int], optional): Show only these numbers of kept tokens.
            Defaults to None, all that the predictions have.
        colours (str): Colours of the groups: 'distinct' or 'mean'. Defaults to
            'distinct'.

    Raises:
        ValueError: If ``num_images`` or ``interval`` is less than 1.
    """

    priority = 'NORMAL'

    def __init__(
        self,
        num_images: int = 8,
        interval: int = 1,
        keeps: Sequence[int] | None = None,
        colours: str = 'distinct',
    ) -> None:
        for name, value in (('num_images', num_images), ('interval', interval)):
            if value < 1:
                raise ValueError(
                    f'{name}={value} of ReconstructionVisualizationHook must be at '
                    'least 1; remove the hook to draw nothing.'
                )
        self.num_images = num_images
        self.interval = interval
        self.keeps = None if keeps is None else tuple(keeps)
        self.colours = colours
        self._validations = 0
        self._wanted: set[int] = set()
        self._seen = 0
        self._samples: list[dict] = []

    def before_val_epoch(self, runner: Runner) -> None:
        """Choose the images of this validation."""
        draw = self._validations % self.interval == 0
        self._validations += 1
        self._start(runner.val_loop.dataloader if draw else None)

    def before_test_epoch(self, runner: Runner) -> None:
        """Choose the images of this test."""
        self._start(runner.test_loop.dataloader)

    def after_val_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Any = None,
        outputs: Sequence[BaseDataElement] | None = None,
    ) -> None:
        """Keep the predictions of the chosen images."""
        self._keep(outputs or ())

    def after_test_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Any = None,
        outputs: Sequence[BaseDataElement] | None = None,
    ) -> None:
        """Keep the predictions of the chosen images."""
        self._keep(outputs or ())

    def after_val_epoch(
        self, runner: Runner, metrics: dict[str, float] | None = None
    ) -> None:
        """Draw and write the grid."""
        by_epoch = isinstance(runner._train_loop, EpochBasedTrainLoop)
        step = runner.epoch if by_epoch else runner.iter
        self._write(runner, f'{"epoch" if by_epoch else "iter"}_{step}', step)

    def after_test_epoch(
        self, runner: Runner, metrics: dict[str, float] | None = None
    ) -> None:
        """Draw and write the grid."""
        self._write(runner, 'test', 0)

    def _start(self, dataloader: Any) -> None:
        """Spread the wanted positions over this process's images."""
        self._seen, self._samples, self._wanted = 0, [], set()
        if dataloader is None or not is_main_process():
            return
        local = -(-len(dataloader.dataset) // get_world_size())
        count = min(self.num_images, local)
        self._wanted = set(
            np.linspace(0, local - 1, count).round().astype(int).tolist()
        )

    def _keep(self, outputs: Sequence[BaseDataElement]) -> None:
        """Copy the wanted ones of a batch of predictions to the host."""
        for output in outputs:
            if self._seen in self._wanted:
                self._samples.append(_to_host(output))
            self._seen += 1

    def _write(self, runner: Runner, suffix: str, step: int) -> None:
        """Draw the kept predictions, write the file, tell the visualizer."""
        samples, self._samples = self._samples, []
        if not samples:
            return
        page = reconstruction_grid(samples, self.keeps, self.colours)
        name = f'reconstruction_{suffix}.png'
        save_png(os.path.join(runner.work_dir, 'vis_data', name), page)
        runner.visualizer.add_image('reconstruction', page, step)


def _to_host(value: Any) -> Any:
    """A prediction as plain dicts with its tensors on the CPU."""
    if isinstance(value, BaseDataElement):
        value = value.to_dict()
    if isinstance(value, dict):
        return {key: _to_host(item) for key, item in value.items()}
    return value.cpu() if isinstance(value, torch.Tensor) else value
