"""Read any image file as three 8-bit BGR channels, or say which file is bad.

Differences to ``mmcv.LoadImageFromFile``: a truncated file is an error (OpenCV
fills the missing rows with grey and goes on), transparent pixels have a defined
colour, 16-bit pictures are scaled instead of clipped, and every failure is one
exception type whose message names the path. :mod:`mergevq_mm.utils.images` reads.
"""

from __future__ import annotations

import cv2
import numpy as np
from mmcv.transforms import LoadImageFromFile

from mergevq_mm.registry import TRANSFORMS
from mergevq_mm.utils.images import WHITE, UnreadableImageError, read_image

__all__ = ['LoadImage', 'UnreadableImageError']


@TRANSFORMS.register_module()
class LoadImage(LoadImageFromFile):
    """Load an image as an H×W×3 uint8 array in BGR order, whatever its file holds.

    Greyscale is repeated over the channels, CMYK and palettes are converted,
    transparent pixels show ``background``, 16-bit grey keeps its upper byte, and
    the EXIF orientation is applied (as mmpretrain's default loader does).

    **Required Keys:** ``img_path``. **Added Keys:** ``img``, ``img_shape``,
    ``ori_shape``.

    Args:
        background (tuple[int, int, int]): The RGB colour behind transparent
            pixels. Defaults to ``(255, 255, 255)``, white.
        backend_args (dict, optional): Arguments of mmengine's file backend.
            Defaults to None.

    Raises:
        ValueError: If ``background`` is not three integers in [0, 255].
        UnreadableImageError: On a call, if the file cannot be read.
    """

    def __init__(
        self,
        background: tuple[int, int, int] = WHITE,
        backend_args: dict | None = None,
    ) -> None:
        super().__init__(imdecode_backend='pillow', backend_args=backend_args)
        if len(background) != 3 or not all(0 <= int(c) <= 255 for c in background):
            raise ValueError(
                f'background={background!r} is not a colour: give three integers '
                'in [0, 255], in the order red, green, blue.'
            )
        self.background = tuple(int(c) for c in background)

    def transform(self, results: dict) -> dict:
        """Load the image of ``results['img_path']``.

        Args:
            results (dict): The sample, with ``img_path``.

        Returns:
            dict: The sample with ``img`` and its shapes.

        Raises:
            UnreadableImageError: If the file cannot be read or decoded.
        """
        rgb = np.asarray(
            read_image(results['img_path'], self.background, self.backend_args)
        )
        image = cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR)  # far faster than a slice
        results['img'] = image
        results['img_shape'] = image.shape[:2]
        results['ori_shape'] = image.shape[:2]
        return results

    def __repr__(self) -> str:
        """Name the settings that matter."""
        return f'{type(self).__name__}(background={self.background})'
