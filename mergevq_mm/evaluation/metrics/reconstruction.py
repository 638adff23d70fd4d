"""PSNR and SSIM of reconstructions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mergevq_mm.registry import METRICS

from ..functional import kept_counts, originals, psnr, ssim, stacked
from .base import MeanOverImages

# Field of a reconstruction -> suffix of the metric's name.
_IMAGES = {'image': '', 'predicted_image': '_predicted'}


@METRICS.register_module()
class ReconstructionMetric(MeanOverImages):
    """PSNR in dB and SSIM per 8-bit image, averaged over the images, at every K.

    Names: ``recon/K16/psnr`` and ``recon/K16/ssim``; where predictions were also
    decoded with the predicted group map, ``recon/K16/psnr_predicted`` and
    ``recon/K16/ssim_predicted``. The definitions are scikit-image's, see
    :mod:`mergevq_mm.evaluation.functional.image_quality`.

    Args:
        ssim (bool): Whether to measure the SSIM, about 7 ms per image of 256×256
            pixels on a CPU core. Defaults to True.
        **kwargs: ``keeps``, ``collect_device``, ``prefix``, ``collect_dir``.
    """

    default_prefix = 'recon'
    better = {'psnr': 'greater', 'ssim': 'greater'}

    def __init__(self, ssim: bool = True, **kwargs) -> None:
        super().__init__(**kwargs)
        self.ssim = ssim

    def measure(self, samples: Sequence[Mapping]) -> dict[str, Sequence[float]]:
        """Measure PSNR and SSIM of B predictions, see the base class."""
        measured = {}
        original = originals(samples)
        for keep in kept_counts(samples, self.keeps):
            for field, suffix in _IMAGES.items():
                image = stacked(samples, keep, field)
                if image is None:
                    continue
                measured[f'K{keep}/psnr{suffix}'] = psnr(image, original).tolist()
                if self.ssim:
                    measured[f'K{keep}/ssim{suffix}'] = ssim(image, original).tolist()
        return measured
