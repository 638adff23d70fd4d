"""Fréchet distance between originals and reconstructions (rFID)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from mmengine.evaluator import BaseMetric
from mmengine.logging import print_log
from torch import Tensor

from mergevq_mm.registry import METRICS, MODELS

from ..feature_extractors import FeatureExtractor
from ..functional import (
    gaussian_distance,
    gaussian_moments,
    kept_counts,
    matrix_root,
    originals,
    stacked,
)
from ..weights import WeightsFirst


@METRICS.register_module()
class FrechetMetric(WeightsFirst, BaseMetric):
    """rFID at every K, with the protocol named in the log.

    Names: ``recon/K16/rfid``, and ``recon/K16/rfid_predicted`` where predictions were
    also decoded with the predicted group map. A Fréchet distance has a meaning only
    together with its features, image size, rounding and number of images, so they are
    logged beside it and can be read from :attr:`protocol`; only
    ``mergevq_mm.InceptionFeatures`` on the whole ImageNet validation set is comparable
    to published numbers.

    The extractor belongs to the metric, not to the model: it is in no checkpoint. It is
    built when the metric is, and if its weights cannot be downloaded the metric is left
    out with a warning. Features are gathered as float32, 4·D bytes per image for
    the originals and for each K: 0.4 GB each for 50,000 images and D = 2048.

    Args:
        extractor (dict): Config of a ``FeatureExtractor``, for example
            ``dict(type='mergevq_mm.InceptionFeatures', checkpoint=PATH_OR_URL)`` or
            ``dict(type='mergevq_mm.BackboneFeatures', network=dict(...))``.
        keeps (Sequence[int], optional): Measure only these numbers of kept tokens.
            Defaults to None, all that the predictions have.
        predicted (bool): Whether to measure also what was decoded with the predicted
            group map: one more pass of the extractor at each K. Defaults to True.
        required (bool): Whether weights that cannot be downloaded are an error instead.
            Defaults to False.
        collect_device (str): 'cpu' or 'gpu'. Defaults to 'cpu'.
        prefix (str, optional): First part of the names. Defaults to None, 'recon'.
        collect_dir (str, optional): Folder to gather results in. Defaults to None.

    Raises:
        FileNotFoundError: If a local file of weights in ``extractor`` is not there, or
            the weights are required and cannot be downloaded.
        ValueError: If ``extractor`` is not the config of a feature extractor.
    """

    default_prefix = 'recon'
    better = {'rfid': 'less'}

    def __init__(
        self,
        extractor: dict,
        keeps: Sequence[int] | None = None,
        predicted: bool = True,
        required: bool = False,
        collect_device: str = 'cpu',
        prefix: str | None = None,
        collect_dir: str | None = None,
    ) -> None:
        super().__init__(collect_device, prefix, collect_dir)
        built = MODELS.build(extractor)
        if not isinstance(built, FeatureExtractor):
            raise ValueError(
                f'extractor={extractor.get("type")!r} of FrechetMetric is no feature '
                'extractor; wrap the backbone: dict(type='
                "'mergevq_mm.BackboneFeatures', network=dict(...))."
            )
        self.extractor = built
        self.keeps = None if keeps is None else tuple(keeps)
        # Field of a reconstruction -> suffix of the metric's name.
        self._images = {'image': ''}
        if predicted:
            self._images['predicted_image'] = '_predicted'
        self.protocol: dict[str, Any] = {}
        self.load_weights(built.load_weights, required)

    @torch.no_grad()
    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Keep the features of one batch.

        Args:
            data_batch (Any): Not used.
            data_samples (Sequence[dict]): Predictions of the batch.
        """
        if not self.ready:
            return
        original = originals(data_samples)
        self.extractor.to(original.device)
        features = {'original': self._features(original)}
        for keep in kept_counts(data_samples, self.keeps):
            for field, suffix in self._images.items():
                image = stacked(data_samples, keep, field)
                if image is not None:
                    features[f'K{keep}/rfid{suffix}'] = self._features(image)
        size = tuple(original.shape[-2:])
        for i in range(len(data_samples)):
            row = {name: value[i] for name, value in features.items()}
            self.results.append((size, row))

    def _features(self, image: Tensor) -> np.ndarray:
        """Features B×D float32 of images B×3×H×W in [0, 1]."""
        return self.extractor(image.float()).float().cpu().numpy()

    def compute_metrics(self, results: list[tuple]) -> dict[str, float]:
        """Fit the Gaussians and compare them.

        Args:
            results (list[tuple]): For each image its size and its features by name.

        Returns:
            dict[str, float]: Name to Fréchet distance.
        """
        if not results:
            return {}
        names = [name for name in results[0][1] if name != 'original']
        sets = {
            name: np.stack([row[name] for _, row in results])
            for name in ('original', *names)
        }
        count, dim = sets['original'].shape
        self.protocol = dict(
            self.extractor.protocol(),
            image_size=sorted({size for size, _ in results}),
            num_images=count,
            feature_dim=dim,
        )
        described = ', '.join(f'{k}={v}' for k, v in self.protocol.items())
        print_log(f'Protocol of rFID: {described}', 'current')
        if count <= dim:
            print_log(
                f'rFID of {count} images with {dim} features: the covariances are '
                'singular; compare only with runs on equally many images.',
                'current',
            )
        mean, cov = gaussian_moments(sets['original'])
        root = matrix_root(cov)
        return {
            name: gaussian_distance(
                mean, cov, *gaussian_moments(sets[name]), root_a=root
            )
            for name in names
        }
