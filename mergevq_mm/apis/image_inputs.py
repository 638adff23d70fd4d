"""Images as users have them: paths, addresses, folders, Pillow images, arrays."""

from __future__ import annotations

import logging
import os
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..utils.images import (
    ADDRESSES,
    WHITE,
    decode_image,
    find_files,
    image_endings,
    passed_over,
    read_image,
    rgb_picture,
)

FITS = ('whole', 'crop')
# Without handlers Python writes its warnings to the standard error.
LOGGER = logging.getLogger('mergevq_mm')


class HasPixels(Protocol):
    """An image, whatever else is said of it."""

    @property
    def pixels(self) -> np.ndarray:
        """np.ndarray: H×W×3 uint8, RGB."""


class NamedImage(NamedTuple):
    """An image that is ready for an encoder.

    Attributes:
        name (str): What its results are called.
        source (str): Path or address; where it has none, its name.
        pixels (np.ndarray): H×W×3 uint8, RGB, H and W multiples of the stride.
    """

    name: str
    source: str
    pixels: np.ndarray


class FolderFile(str):
    """The path of a file that nobody named: it lay in a folder that somebody did.

    On the command line also one of several, as a shell lists them.
    If it cannot be read, that is told, and the work goes on.
    """


class NamedBytes(bytes):
    """The content of a file, and what its results are called.

    Args:
        content (bytes): Of the file.
        name (str): Without an ending.
    """

    name: str

    def __new__(cls, content: bytes, name: str) -> NamedBytes:
        """Copy the content, and note its name."""
        made = super().__new__(cls, content)
        made.name = name
        return made


def list_inputs(
    inputs: Any,
    endings: Iterable[str] | None = None,
    leave_out: str | os.PathLike[str] | None = None,
) -> list[tuple[str, Any]]:
    """Take apart what a user gives, and name each piece.

    Hidden files and folders are no input. What else a folder holds and is not read is
    counted in a warning of the logger 'mergevq_mm'.

    Args:
        inputs (Any): A path, an address, a folder, a Pillow image, an array or tensor
            (one image, or a batch of four axes), or a sequence of these.
        endings (Iterable[str], optional): Of a folder's files that count. Defaults to
            None, those of images.
        leave_out (str | PathLike, optional): A folder that is not looked into when it
            lies in another: that of the results. Defaults to None.

    Returns:
        list[tuple[str, Any]]: Names that differ, also where a file system does not tell
        capitals from small letters, and single inputs. The files of a folder and of its
        sub-folders are :class:`FolderFile` in the order of their paths.

    Raises:
        FileNotFoundError: If a path does not exist or a folder has no such file.
        ValueError: If there is nothing, or something of another kind.
    """
    endings = tuple(image_endings() if endings is None else endings)
    found = list(_flatten(inputs, endings, leave_out))
    if not found:
        raise ValueError('inputs hold nothing; give at least one image or path.')
    taken: set[str] = set()
    named = []
    for number, (name, item) in enumerate(found):
        name = unique = name or f'image{number:05d}'
        more = 1
        while _folded(unique) in taken:
            more += 1
            unique = f'{name}_{more}'
        taken.add(_folded(unique))
        named.append((unique, item))
    return named


def _folded(name: str) -> str:
    """A name as a file system sees it that does not look closely."""
    return unicodedata.normalize('NFC', name).casefold()


def _flatten(
    inputs: Any, endings: tuple[str, ...], leave_out: str | os.PathLike[str] | None
) -> Iterator[tuple[str, Any]]:
    """Names (empty where there is none) and single inputs."""
    if isinstance(inputs, (list, tuple)):
        for item in inputs:
            yield from _flatten(item, endings, leave_out)
    elif isinstance(inputs, (str, os.PathLike)):
        yield from _files(os.fspath(inputs), endings, leave_out)
    elif isinstance(inputs, (np.ndarray, Tensor)) and inputs.ndim == 4:
        for item in inputs:
            yield '', item
    elif isinstance(inputs, (np.ndarray, Tensor, Image.Image, bytes)):
        yield inputs.name if isinstance(inputs, NamedBytes) else '', inputs
    else:
        raise ValueError(
            f'inputs hold a {type(inputs).__name__}, which is no image; give paths, '
            'addresses, folders, Pillow images, arrays or tensors.'
        )


def _files(
    path: str, endings: tuple[str, ...], leave_out: str | os.PathLike[str] | None
) -> Iterator[tuple[str, str]]:
    """The file of a path or an address, or those of a folder."""
    if path.startswith(ADDRESSES):
        yield Path(path.split('?')[0].rstrip('/')).stem, path
        return
    folder = Path(path)
    if path and folder.is_file():
        yield folder.stem, path
        return
    if not path or not folder.is_dir():
        kind = 'is neither a file nor a folder'
        raise FileNotFoundError(
            f'"{path}" {kind if path and folder.exists() else "does not exist"}; give '
            'a file or a folder with such files.'
        )
    files, others = find_files(folder, endings, leave_out)
    if not files:
        raise FileNotFoundError(
            f'"{path}" has no file that ends in {", ".join(endings)}; give a file or a '
            'folder with such files.'
        )
    if others:
        LOGGER.warning(passed_over(others, folder))
    for file in files:
        inside = file.relative_to(folder).with_suffix('')
        yield '_'.join(inside.parts), FolderFile(file)


def read_pixels(item: Any, background: tuple[int, int, int] = WHITE) -> np.ndarray:
    """Pixels of a single input.

    Args:
        item (Any): Of :func:`list_inputs`. An array is H×W×3, H×W×1 or H×W, uint8 in
            RGB, or of floats in [0, 1]; a tensor 3×H×W or 1×H×W likewise.
        background (tuple[int, int, int]): Colour behind transparent pixels. Defaults to
            white.

    Returns:
        np.ndarray: H×W×3 uint8, RGB.

    Raises:
        UnreadableImageError: If a file or a Pillow image cannot be decoded.
        ValueError: If an array has another shape, type or range, or an address does not
            answer.
    """
    if isinstance(item, str):
        return np.asarray(read_image(item, background))
    if isinstance(item, bytes):
        return np.asarray(decode_image(item, background=background))
    if isinstance(item, Image.Image):
        return np.asarray(rgb_picture(item, background=background))
    if isinstance(item, Tensor):
        item = item.detach().cpu()
        if item.ndim == 3 and item.shape[0] in (1, 3):
            item = item.permute(1, 2, 0)  # 3×H×W -> H×W×3
        half = item.is_floating_point()  # numpy knows no bfloat16
        item = (item.float() if half else item).numpy()
    return _array_pixels(item)


def _array_pixels(array: np.ndarray) -> np.ndarray:
    """An array of any usual kind as H×W×3 uint8."""
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim != 3 or array.shape[-1] not in (1, 3) or 0 in array.shape:
        raise ValueError(
            f'an array of shape {array.shape} is no image; give H×W×3, H×W×1 or H×W, '
            'or a tensor 3×H×W.'
        )
    if np.issubdtype(array.dtype, np.floating):
        low, high = float(array.min()), float(array.max())
        if not (low >= 0 and high <= 1):
            raise ValueError(
                f'an array of floats in [{low:.3g}, {high:.3g}] is no image; give '
                'values in [0, 1], or uint8 in 0..255.'
            )
        array = (array * 255).round()
    elif array.dtype != np.uint8:
        raise ValueError(
            f'an array of {array.dtype} is no image; give uint8 in 0..255, or floats '
            'in [0, 1].'
        )
    return np.ascontiguousarray(np.broadcast_to(array, (*array.shape[:2], 3))).astype(
        np.uint8
    )


def check_size(size: int, stride: int, fit: str) -> None:
    """Refuse a size that an encoder does not take.

    Args:
        size (int): Pixels of the shorter edge.
        stride (int): Of the encoder.
        fit (str): 'whole' or 'crop'.

    Raises:
        ValueError: If ``size`` is no multiple of the stride, or ``fit`` not known.
    """
    if fit not in FITS:
        raise ValueError(
            f"fit={fit!r} is not known; choose 'whole', the picture in its shape, or "
            "'crop', a square from its centre."
        )
    whole = isinstance(size, (int, np.integer)) and not isinstance(size, bool)
    if not whole or size < stride or size % stride:
        near = max(1, round(size / stride)) * stride if whole else stride
        raise ValueError(
            f'size={size!r} is no multiple of the stride {stride} of this encoder; '
            f'give {near}.'
        )


def fit_pixels(
    pixels: np.ndarray, size: int, stride: int, fit: str = 'whole'
) -> np.ndarray:
    """Bring an image to a size that an encoder takes.

    Args:
        pixels (np.ndarray): H×W×3 uint8.
        size (int): Pixels of the shorter edge.
        stride (int): Of the encoder.
        fit (str): 'whole' cuts the longer edge to a multiple of the stride; 'crop' cuts
            it to ``size``. Defaults to 'whole'.

    Returns:
        np.ndarray: H'×W'×3 uint8, from the centre.

    Raises:
        ValueError: If ``size`` is no multiple of the stride, or ``fit`` not known.
    """
    check_size(size, stride, fit)
    scale = size / min(pixels.shape[:2])
    height, width = (max(size, round(n * scale)) for n in pixels.shape[:2])
    if (height, width) != pixels.shape[:2]:
        picture = Image.fromarray(pixels)
        pixels = np.asarray(picture.resize((width, height), Image.Resampling.LANCZOS))
    if fit == 'crop':
        height = width = size
    else:
        height, width = height // stride * stride, width // stride * stride
    top, left = (pixels.shape[0] - height) // 2, (pixels.shape[1] - width) // 2
    # A copy, as arrays of Pillow are not writable, which torch warns of.
    fitted: np.ndarray = pixels[top : top + height, left : left + width].copy()
    return fitted


def to_images(
    pixels: Sequence[np.ndarray],
    device: torch.device,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """A batch for an encoder.

    Args:
        pixels (Sequence[np.ndarray]): B of H×W×3 uint8.
        device (torch.device): Where to.
        dtype (torch.dtype): Of the encoder's weights. Defaults to float32.

    Returns:
        Tensor: B×3×H×W in [-1, 1].
    """
    batch = torch.from_numpy(np.stack(pixels)).to(device)
    images = batch.permute(0, 3, 1, 2).float().div(127.5).sub(1)
    return images.to(dtype).contiguous()
