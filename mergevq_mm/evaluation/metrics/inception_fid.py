"""FID as mmagic measures it, with checked statistics and any scipy."""

from __future__ import annotations

from typing import Any

import numpy as np

from mergevq_mm.registry import METRICS

from ..functional import gaussian_distance
from .generation_frechet import GenerationFrechet


@METRICS.register_module()
class InceptionFID(GenerationFrechet):
    """FID by StyleGAN's Inception, under the names of mmagic's metric.

    Names: ``fid``, and its parts ``mean`` (of the means) and ``cov`` (of the
    covariances), after the prefix.

    Differences to mmagic's ``FID``: the root of the covariances is that of
    :mod:`~mergevq_mm.evaluation.functional.frechet` (scipy's lost the argument that
    mmagic gives it in version 1.18); stored statistics are no pickle and are compared
    with the data; exactly ``fake_nums`` images count.

    Args:
        fake_nums (int): Number of generated images.
        inception_path (str, optional): Path or URL of StyleGAN's TorchScript file.
            Defaults to None, its URL.
        **kwargs (Any): See :class:`GenerationFrechet`.

    Raises:
        FileNotFoundError: If the network or the statistics are not there and cannot be
            fetched.
    """

    def __init__(
        self, fake_nums: int, inception_path: str | None = None, **kwargs: Any
    ) -> None:
        extractor = {
            'type': 'mergevq_mm.InceptionFeatures',
            'style': 'stylegan',
            'checkpoint': inception_path,
        }
        super().__init__(extractor, fake_nums, **kwargs)
        self.extractor.load_weights()  # what is missing shows now

    def compare(
        self,
        mean_a: np.ndarray,
        cov_a: np.ndarray,
        mean_b: np.ndarray,
        cov_b: np.ndarray,
    ) -> dict[str, float]:
        """FID and its parts, see the base class."""
        offset = float(np.square(mean_a - mean_b).sum())
        shape = gaussian_distance(mean_a, cov_a, mean_a, cov_b)
        return {'fid': offset + shape, 'mean': offset, 'cov': shape}
