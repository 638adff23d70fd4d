"""Writes pictures of originals, merge maps and reconstructions at each validation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from mmengine.dist import get_world_size, is_main_process
from mmengine.runner import Runner
from mmengine.structures import BaseDataElement

from mergevq_mm.registry import HOOKS
from mergevq_mm.visualization import reconstruction_grid

from .pictures import DrawingHook, write_picture


@HOOKS.register_module()
class ReconstructionVisualizationHook(DrawingHook):
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

    def __init__(
        self,
        num_images: int = 8,
        interval: int = 1,
        keeps: Sequence[int] | None = None,
        colours: str = 'distinct',
    ) -> None:
        super().__init__(interval, num_images=num_images)
        self.num_images = num_images
        self.keeps = None if keeps is None else tuple(keeps)
        self.colours = colours
        self._wanted: set[int] = set()
        self._seen = 0
        self._samples: list[dict] = []

    def _start(self, runner: Runner, testing: bool) -> None:
        """Spread the wanted positions over this process's images."""
        self._seen, self._samples, self._wanted = 0, [], set()
        if not is_main_process():
            return
        loop = runner.test_loop if testing else runner.val_loop
        local = -(-len(loop.dataloader.dataset) // get_world_size())
        spread = np.linspace(0, local - 1, min(self.num_images, local))
        self._wanted = set(spread.round().astype(int).tolist())

    def _collect(
        self, runner: Runner, data_batch: Any, outputs: Any, testing: bool
    ) -> None:
        """Copy the wanted ones of a batch of predictions to the host."""
        for output in outputs or ():
            if self._seen in self._wanted:
                self._samples.append(_to_host(output))
            self._seen += 1

    def _draw(self, runner: Runner, testing: bool) -> None:
        samples, self._samples = self._samples, []
        if samples:
            page = reconstruction_grid(samples, self.keeps, self.colours)
            write_picture(runner, 'reconstruction', page, testing)


def _to_host(value: Any) -> Any:
    """A prediction as plain dicts with its tensors on the CPU."""
    if isinstance(value, BaseDataElement):
        value = value.to_dict()
    if isinstance(value, dict):
        return {key: _to_host(item) for key, item in value.items()}
    return value.cpu() if isinstance(value, torch.Tensor) else value
