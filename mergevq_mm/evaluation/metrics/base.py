"""What the metrics of reconstructions have in common."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from mmengine.evaluator import BaseMetric


class MeanOverImages(BaseMetric):
    """A metric that is the mean of one number per image.

    Subclasses say with :meth:`measure` what the numbers of a batch are. Only these
    numbers are kept and gathered from the ranks, one dict per image, so that batches of
    any size and padded distributed samplers give the same mean.

    Args:
        keeps (Sequence[int], optional): Measure only these numbers of kept tokens.
            Defaults to None, all that the predictions have.
        collect_device (str): 'cpu' or 'gpu'. Defaults to 'cpu'.
        prefix (str, optional): First part of the names. Defaults to None, the class's.
        collect_dir (str, optional): Folder to gather results in. Defaults to None.
    """

    def __init__(
        self,
        keeps: Sequence[int] | None = None,
        collect_device: str = 'cpu',
        prefix: str | None = None,
        collect_dir: str | None = None,
    ) -> None:
        super().__init__(collect_device, prefix, collect_dir)
        self.keeps = None if keeps is None else tuple(keeps)

    @abstractmethod
    def measure(self, samples: Sequence[Mapping]) -> dict[str, Sequence[float]]:
        """Measure one batch.

        Args:
            samples (Sequence[Mapping]): B predictions.

        Returns:
            dict[str, Sequence[float]]: Name to B numbers.
        """

    @torch.no_grad()
    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Measure one batch and keep one dict of numbers per image.

        Args:
            data_batch (Any): Not used.
            data_samples (Sequence[dict]): Predictions of the batch.
        """
        measured = self.measure(data_samples)
        for i in range(len(data_samples)):
            self.results.append({name: float(v[i]) for name, v in measured.items()})

    def compute_metrics(self, results: list[dict[str, float]]) -> dict[str, float]:
        """Average over the images.

        Args:
            results (list[dict[str, float]]): One dict per image.

        Returns:
            dict[str, float]: Name to mean.
        """
        names = results[0] if results else ()
        return {name: float(np.mean([r[name] for r in results])) for name in names}
