"""Operations on pictures: grey, cubic enlargement, dilation, distances of colours."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional as F


def grey(image: np.ndarray) -> np.ndarray:
    """Brightness as ITU-R BT.601 weighs the colours, in OpenCV's whole numbers.

    Args:
        image (np.ndarray): H×W×3 uint8, RGB.

    Returns:
        np.ndarray: H×W uint8.
    """
    weights = np.array([9798, 19235, 3735], dtype=np.int32)  # of 2^15
    return ((image @ weights + (1 << 14)) >> 15).astype(np.uint8)


def dilate(mask: np.ndarray, width: int) -> np.ndarray:
    """Widen what is marked to a square around each mark.

    Args:
        mask (np.ndarray): H×W bool.
        width (int): Of the square; of an even one the mark lies above and left of the
            middle.

    Returns:
        np.ndarray: H×W bool.
    """
    for axis, length in enumerate(mask.shape):
        borders = [(0, 0), (0, 0)]
        borders[axis] = (width // 2, width - 1 - width // 2)
        padded = np.pad(mask, borders)
        parts = [padded.take(range(i, i + length), axis) for i in range(width)]
        mask = np.logical_or.reduce(parts)
    return mask


def resize_cubic(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Enlarge by a cubic curve through the pixels.

    Args:
        image (np.ndarray): H×W or H×W×C, uint8 or float32.
        size (tuple[int, int]): Width and height.

    Returns:
        np.ndarray: Of that size, of the same type.
    """
    values = torch.from_numpy(np.atleast_3d(image)).permute(2, 0, 1)[None].float()
    made = F.interpolate(values, size[::-1], mode='bicubic', align_corners=False)
    found = made[0].permute(1, 2, 0).numpy().reshape(*size[::-1], *image.shape[2:])
    if image.dtype == np.uint8:
        found = found.round().clip(0, 255)
    return found.astype(image.dtype)


def lab(colours: np.ndarray) -> np.ndarray:
    """CIE Lab of sRGB colours under D65.

    Args:
        colours (np.ndarray): N×3 uint8.

    Returns:
        np.ndarray: N×3 float64.
    """
    share = colours / 255
    linear = np.where(share > 0.04045, ((share + 0.055) / 1.055) ** 2.4, share / 12.92)
    to_xyz = np.array(
        [
            [0.412453, 0.357580, 0.180423],
            [0.212671, 0.715160, 0.072169],
            [0.019334, 0.119193, 0.950227],
        ]
    )
    x, y, z = to_xyz @ linear.T / np.array([[0.950456], [1.0], [1.088754]])
    fx, fy, fz = (
        np.where(t > 0.008856, np.cbrt(t), 7.787 * t + 16 / 116) for t in (x, y, z)
    )
    return np.stack([116 * fy - 16, 500 * (fx - fy), 200 * (fy - fz)], axis=1)
