"""The mathematics of the metrics, as pure functions."""

from .codebook import bit_entropies, code_statistics, entropy_bits
from .frechet import (
    frechet_distance,
    gaussian_distance,
    gaussian_moments,
    matrix_root,
)
from .image_quality import MAX_PSNR, psnr, quantize, ssim
from .predictions import code_bits, kept_counts, originals, stacked

__all__ = [
    'MAX_PSNR',
    'bit_entropies',
    'code_bits',
    'code_statistics',
    'entropy_bits',
    'frechet_distance',
    'gaussian_distance',
    'gaussian_moments',
    'kept_counts',
    'matrix_root',
    'originals',
    'psnr',
    'quantize',
    'ssim',
    'stacked',
]
