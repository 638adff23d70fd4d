"""PSNR and SSIM of 8-bit images, by scikit-image's definitions.

Differences from ``skimage.metrics``: computed on the device where the images are (and
in about half of skimage's time on a CPU core), and the PSNR of two equal images is
:data:`MAX_PSNR` instead of infinity, so that one blank image does not make the mean of
a data set infinite.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

MAX_PSNR = 100.0
"""PSNR of two equal images in dB; 8-bit images that differ stay below about 100."""

SSIM_WINDOW = 7


def quantize(image: Tensor) -> Tensor:
    """Grey values 0..255 of images in [0, 1], as a PNG file would hold them.

    Args:
        image (Tensor): Any shape, values outside of [0, 1] are clamped.

    Returns:
        Tensor: Whole numbers as float64, same shape; NaN stays NaN.
    """
    return image.double().clamp(0, 1).mul(255).round()


def psnr(image: Tensor, reference: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of 8-bit images in dB.

    Args:
        image (Tensor): B×C×H×W in [0, 1].
        reference (Tensor): B×C×H×W in [0, 1].

    Returns:
        Tensor: B, float64, at most :data:`MAX_PSNR`.
    """
    _check_pair(image, reference)
    errors = [
        (quantize(x) - quantize(y)).square_().mean() for x, y in zip(image, reference)
    ]
    return (10 * torch.log10(255**2 / torch.stack(errors))).clamp(max=MAX_PSNR)


def ssim(image: Tensor, reference: Tensor) -> Tensor:
    """Structural similarity of 8-bit images, the mean over pixels and channels.

    ``skimage.metrics.structural_similarity`` with its defaults: uniform window of 7×7
    pixels, sample covariance, K1 = 0.01, K2 = 0.03, each channel by itself, windows
    that leave the image not counted.

    Args:
        image (Tensor): B×C×H×W in [0, 1].
        reference (Tensor): B×C×H×W in [0, 1].

    Returns:
        Tensor: B, float64, in [-1, 1].

    Raises:
        ValueError: If shapes differ or a side is shorter than 7 pixels.
    """
    _check_pair(image, reference)
    if min(image.shape[-2:]) < SSIM_WINDOW:
        raise ValueError(
            f'image of {image.shape[-2]}×{image.shape[-1]} pixels is smaller than the '
            f'SSIM window of {SSIM_WINDOW}; evaluate images of at least 7×7 pixels.'
        )
    # One image at a time: the running sums of a batch would not fit into the cache.
    return torch.stack([_ssim_of_one(x, y) for x, y in zip(image, reference)])


def _ssim_of_one(image: Tensor, reference: Tensor) -> Tensor:
    """The SSIM of two images C×H×W, a scalar."""
    x, y = quantize(image), quantize(reference)
    unbiased = SSIM_WINDOW**2 / (SSIM_WINDOW**2 - 1)
    mean_x, mean_y = _window_mean(x), _window_mean(y)
    means = mean_x.square() + mean_y.square()
    variances = unbiased * (_window_mean(x.square() + y.square()) - means)
    covariance = unbiased * (_window_mean(x * y) - mean_x * mean_y)
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    luminance = (2 * mean_x * mean_y + c1) / (means + c1)
    contrast = (2 * covariance + c2) / (variances + c2)
    return (luminance * contrast).mean()


def _window_mean(values: Tensor) -> Tensor:
    """Mean of each 7×7 window, C×(H-6)×(W-6), by running sums.

    The running sums hold whole numbers far below 2^53: nothing is rounded.
    """
    w = SSIM_WINDOW
    total = F.pad(values, (1, 0, 1, 0)).cumsum(-1).cumsum(-2)  # C×(H+1)×(W+1)
    columns = total[..., w:] - total[..., :-w]
    return (columns[..., w:, :] - columns[..., :-w, :]) / w**2


def _check_pair(image: Tensor, reference: Tensor) -> None:
    if image.shape != reference.shape or image.dim() != 4:
        raise ValueError(
            f'image {tuple(image.shape)} and reference {tuple(reference.shape)} are no '
            'pair; give two batches of one shape B×C×H×W.'
        )
