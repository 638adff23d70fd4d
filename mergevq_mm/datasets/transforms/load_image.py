"""Read any image file as three 8-bit BGR channels, or say which file is bad.

Differences to ``mmcv.LoadImageFromFile``: a truncated file is an error (OpenCV
fills the missing rows with grey and goes on), transparent pixels have a defined
colour, 16-bit pictures are scaled instead of clipped, and every failure is one
exception type whose message names the path.
"""

from __future__ import annotations

import io

import cv2
import numpy as np
from mmcv.transforms import LoadImageFromFile
from mmengine import fileio
from PIL import Image, ImageOps

from mergevq_mm.registry import TRANSFORMS


class UnreadableImageError(ValueError):
    """An image file that cannot be read; the message names its path."""


def _sixteen_to_eight_bits(picture: Image.Image) -> Image.Image:
    """Keep the upper byte of a 16-bit grey picture, as libpng does.

    Args:
        picture (PIL.Image.Image): A picture of mode ``I`` or ``I;16*``.

    Returns:
        PIL.Image.Image: The same picture in mode ``L``.

    Raises:
        ValueError: If a value is outside of [0, 65535].
    """
    values = np.asarray(picture).astype(np.int64)  # H×W
    if values.size and (values.min() < 0 or values.max() > 65535):
        raise ValueError(
            f'its grey values lie in [{values.min()}, {values.max()}], '
            'outside of the 16 bits that have a defined brightness'
        )
    return Image.fromarray((values >> 8).astype(np.uint8))


def to_rgb(picture: Image.Image, background: tuple[int, int, int]) -> Image.Image:
    """Convert a picture of any Pillow mode to RGB.

    Args:
        picture (PIL.Image.Image): The decoded picture.
        background (tuple[int, int, int]): The RGB colour behind transparent pixels.

    Returns:
        PIL.Image.Image: The picture in mode ``RGB``.

    Raises:
        ValueError: If the mode has no defined brightness (floating point).
    """
    if picture.mode == 'RGB' and 'transparency' not in picture.info:
        return picture
    if picture.mode == 'F':
        raise ValueError('its pixels are floating point numbers of unknown range')
    if picture.mode == 'I' or picture.mode.startswith('I;16'):
        return _sixteen_to_eight_bits(picture).convert('RGB')
    if picture.mode in ('RGBA', 'LA', 'PA', 'RGBa', 'La') or (
        'transparency' in picture.info
    ):
        layer = picture.convert('RGBA')
        canvas = Image.new('RGBA', layer.size, (*background, 255))
        return Image.alpha_composite(canvas, layer).convert('RGB')
    return picture.convert('RGB')


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
        background: tuple[int, int, int] = (255, 255, 255),
        backend_args: dict | None = None,
    ) -> None:
        super().__init__(imdecode_backend='pillow', backend_args=backend_args)
        if len(background) != 3 or not all(0 <= int(c) <= 255 for c in background):
            raise ValueError(
                f'background={background!r} is not a colour: give three integers '
                'in [0, 255], in the order red, green, blue.'
            )
        self.background = tuple(int(c) for c in background)

    def decode(self, content: bytes) -> np.ndarray:
        """Decode the bytes of an image file.

        Args:
            content (bytes): The content of the file.

        Returns:
            np.ndarray: The picture, H×W×3, uint8, BGR, contiguous.
        """
        if not content:
            raise ValueError('the file is empty')
        with Image.open(io.BytesIO(content)) as picture:
            picture.load()
            upright = ImageOps.exif_transpose(picture)
            rgb = np.asarray(to_rgb(upright, self.background))  # H×W×3
        return cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR)  # far faster than a slice

    def transform(self, results: dict) -> dict:
        """Load the image of ``results['img_path']``.

        Args:
            results (dict): The sample, with ``img_path``.

        Returns:
            dict: The sample with ``img`` and its shapes.

        Raises:
            UnreadableImageError: If the file cannot be read or decoded.
        """
        path = results['img_path']
        try:
            image = self.decode(fileio.get(path, backend_args=self.backend_args))
        except MemoryError:
            raise
        except Exception as error:  # decoders raise nearly every type there is
            reason = f'{type(error).__name__}: {error}'
            raise UnreadableImageError(
                f'img_path={path!r} cannot be read as an image ({reason}): replace '
                'or remove this file.'
            ) from error
        results['img'] = image
        results['img_shape'] = image.shape[:2]
        results['ori_shape'] = image.shape[:2]
        return results

    def __repr__(self) -> str:
        """Name the settings that matter."""
        return f'{type(self).__name__}(background={self.background})'
