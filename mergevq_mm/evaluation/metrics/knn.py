"""Weighted k-NN accuracy of the features that a test loop delivers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePath
from typing import Any

import numpy as np
import torch
from mmengine.evaluator import BaseMetric

from mergevq_mm.registry import METRICS

from ..knn import KS, TEMPERATURE, knn_accuracy


@METRICS.register_module()
class KNNAccuracy(BaseMetric):
    """Classify the held-out images of a test loop by those of the gallery.

    One pass over gallery and held-out images (a ``ConcatDataset``) is enough: an image
    belongs to the gallery if its path has the folder ``gallery``. Predictions have the
    fields ``feature`` (D), as :class:`mergevq_mm.FeatureHead` makes them, and
    ``gt_label``. Names: ``knn/k20`` in per cent, for each k.

    Features are gathered as float16: 2 GB for ImageNet at 768 dimensions.

    Args:
        ks (Sequence[int]): Numbers of neighbours. Defaults to 10, 20, 100 and 200.
        temperature (float): Of the weights. Defaults to 0.07.
        gallery (str): Folder of the images that vote. Defaults to 'train'.
        collect_device (str): 'cpu' or 'gpu'. Defaults to 'cpu'.
        prefix (str, optional): First part of the names. Defaults to None, 'knn'.
        collect_dir (str, optional): Folder to gather results in. Defaults to None.

    Raises:
        ValueError: When evaluated, if there is no image on one of the sides.
    """

    default_prefix = 'knn'
    better = {'k': 'greater'}

    def __init__(
        self,
        ks: Sequence[int] = KS,
        temperature: float = TEMPERATURE,
        gallery: str = 'train',
        collect_device: str = 'cpu',
        prefix: str | None = None,
        collect_dir: str | None = None,
    ) -> None:
        super().__init__(collect_device, prefix, collect_dir)
        self.ks = tuple(ks)
        self.temperature = temperature
        self.gallery = gallery

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Keep feature, label and side of the images of one batch.

        Args:
            data_batch (Any): Not used.
            data_samples (Sequence[dict]): Predictions of the batch.
        """
        for sample in data_samples:
            feature = sample['feature'].detach().cpu().numpy().astype(np.float16)
            inside = self.gallery in PurePath(sample['img_path']).parts
            self.results.append((feature, int(sample['gt_label']), inside))

    def compute_metrics(
        self, results: list[tuple[np.ndarray, int, bool]]
    ) -> dict[str, float]:
        """Let the gallery vote.

        Args:
            results (list[tuple]): Feature, label and side of each image.

        Returns:
            dict[str, float]: Name to accuracy in per cent.

        Raises:
            ValueError: If there is no image on one of the sides.
        """
        inside = np.array([side for _, _, side in results], dtype=bool)
        if inside.all() or not inside.any():
            raise ValueError(
                f'gallery={self.gallery!r} is a folder of {int(inside.sum())} of the '
                f'{len(inside)} images; test on a ConcatDataset of a gallery below '
                'that folder and of held-out images outside of it.'
            )
        feature = torch.from_numpy(np.stack([row for row, _, _ in results])).float()
        label = torch.tensor([number for _, number, _ in results])
        gallery = torch.from_numpy(inside)
        found = knn_accuracy(
            feature[gallery],
            label[gallery],
            feature[~gallery],
            label[~gallery],
            self.ks,
            self.temperature,
        )
        return {f'k{k}': 100 * value for k, value in found.items()}
