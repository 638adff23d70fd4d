"""The transforms that published folders name, for where mmpretrain is not installed.

They are mmpretrain's to the bit, on Pillow and numpy; OpenCV's ways of resizing are not
among them. Images are H×W×3 uint8; the order of the channels does not matter.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
from PIL import Image

from ..base.tier import needs_training

_FILTERS = {
    'nearest': Image.Resampling.NEAREST,
    'bilinear': Image.Resampling.BILINEAR,
    'bicubic': Image.Resampling.BICUBIC,
    'box': Image.Resampling.BOX,
    'lanczos': Image.Resampling.LANCZOS,
    'hamming': Image.Resampling.HAMMING,
}


def plain_transform(
    step: Mapping[str, Any],
) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Build a transform of a published folder.

    Args:
        step (Mapping): Its config, with ``type``.

    Returns:
        Callable: Takes and returns results with ``img``.

    Raises:
        MissingExtra: If it is none of those that need no OpenMMLab.
    """
    arguments = dict(step)
    kind = str(arguments.pop('type')).rpartition('.')[2]
    changes: dict[str, Callable[..., np.ndarray]]
    changes = {'ResizeEdge': _edge, 'Resize': _resized, 'CenterCrop': _cropped}
    resizes = kind.startswith('Resize')
    if kind not in changes or resizes and arguments.get('backend') != 'pillow':
        raise needs_training(f'The transform {dict(step)}')
    return partial(_apply, partial(changes[kind], **arguments))


def _apply(
    change: Callable[[np.ndarray], np.ndarray], results: dict[str, Any]
) -> dict[str, Any]:
    image = change(results['img'])
    return {**results, 'img': image, 'img_shape': image.shape[:2]}


def resize(
    image: np.ndarray, size: tuple[int, int], interpolation: str = 'bilinear'
) -> np.ndarray:
    """Resize by Pillow, as ``mmcv.imresize(backend='pillow')``.

    Args:
        image (np.ndarray): H×W×3 uint8.
        size (tuple[int, int]): Width and height.
        interpolation (str): 'nearest', 'bilinear', 'bicubic', 'box', 'lanczos' or
            'hamming'. Defaults to 'bilinear'.

    Returns:
        np.ndarray: H'×W'×3 uint8.
    """
    return np.array(Image.fromarray(image).resize(size, _FILTERS[interpolation]))


def pad(
    image: np.ndarray, borders: tuple[int, int, int, int], grey: Any = 0
) -> np.ndarray:
    """Add borders, as ``mmcv.impad``.

    Args:
        image (np.ndarray): H×W×3 uint8.
        borders (tuple[int, int, int, int]): Left, top, right, bottom.
        grey (int | tuple[int, int, int]): Value of each channel; one number is that of
            the first, the others get 0, as OpenCV has it. Defaults to 0.

    Returns:
        np.ndarray: Larger.
    """
    left, top, right, bottom = borders
    height, width, channels = image.shape
    value = grey if isinstance(grey, (list, tuple)) else (grey, 0, 0, 0)[:channels]
    padded = np.empty((top + height + bottom, left + width + right, channels), np.uint8)
    padded[:] = value
    padded[top : top + height, left : left + width] = image
    return padded


def _edge(
    image: np.ndarray,
    scale: int,
    edge: str = 'short',
    backend: str = 'pillow',
    interpolation: str = 'bilinear',
) -> np.ndarray:
    height, width = image.shape[:2]
    narrow = edge == 'short' and width < height or edge == 'long' and width > height
    if narrow or edge == 'width':
        size = scale, int(scale * height / width)
    else:
        size = int(scale * width / height), scale
    return resize(image, size, interpolation)


def _resized(
    image: np.ndarray,
    scale: int | tuple[int, int],
    backend: str = 'pillow',
    interpolation: str = 'bilinear',
) -> np.ndarray:
    size = (scale, scale) if isinstance(scale, int) else (scale[0], scale[1])
    return resize(image, size, interpolation)


def _cropped(image: np.ndarray, crop_size: int | tuple[int, int]) -> np.ndarray:
    wide, high = (crop_size,) * 2 if isinstance(crop_size, int) else crop_size
    top = max(0, int(round((image.shape[0] - high) / 2.0)))
    left = max(0, int(round((image.shape[1] - wide) / 2.0)))
    return image[top : top + high, left : left + wide]
