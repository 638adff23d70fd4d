"""Image files: which ones count, where they lie in a folder, and how they are read.

All of the project reads images here: data sets, inferencers, tools and the page. Pillow
guesses a file's format from its content, and one of those that it knows, PostScript, is
a program that it hands to Ghostscript. So the formats are a fixed list.
"""

from __future__ import annotations

import functools
import io
import os
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

from ..base import fileio
from .download import read_address

FORMATS = ('JPEG', 'PNG', 'WEBP', 'GIF', 'BMP', 'TIFF', 'PPM', 'JPEG2000', 'AVIF')
# Pillow's own limit, at which it refuses: more would take half a gigabyte as RGB.
MAX_PIXELS = 2 * (2**30 // 12)
ADDRESSES = ('http://', 'https://')
MAX_BYTES = 2**28  # of an image at an address
TIMEOUT = 120.0  # seconds for all of it
WHITE = (255, 255, 255)

_ALSO = ('MPO',)  # several JPEGs in one file, which Pillow opens as a JPEG
_FLOATS = ('.pfm',)  # of PPM; floats have no defined brightness


class UnreadableImageError(ValueError):
    """An image that cannot be read; the message names it."""


# ----------------------------------------------------------------------------- files


@functools.cache
def image_endings() -> tuple[str, ...]:
    """Endings of the files that are read as images.

    Returns:
        tuple[str, ...]: In lower case, such as '.jpg', those of ``FORMATS`` that the
        installed Pillow can decode.
    """
    of_ending = Image.registered_extensions().items()  # loads all plugins
    known = {ending for ending, kind in of_ending if kind in (*FORMATS, *_ALSO)}
    return tuple(sorted(known - set(_FLOATS)))


def is_hidden(path: str | os.PathLike) -> bool:
    """Whether a file of a folder is hidden, or lies in a hidden folder.

    Such are the companions ``._cat.jpg`` of macOS, and ``.ipynb_checkpoints``.

    Args:
        path (str | PathLike): **Relative** to the folder that was asked for, which may
            itself lie in a hidden one.

    Returns:
        bool: Whether a part of the path begins with a dot.
    """
    parts = os.fspath(path).replace(os.sep, '/').split('/')
    return any(part.startswith('.') and part not in ('.', '..') for part in parts)


def walk_files(
    folder: str | os.PathLike, leave_out: str | os.PathLike | None = None
) -> Iterator[Path]:
    """All files below a folder that are not hidden, in the order of their paths.

    Links are followed, but not back to a folder above. What is neither a file nor a
    folder, such as a pipe, is left out.

    Args:
        folder (str | PathLike): Where to look.
        leave_out (str | PathLike, optional): A folder below it that is not looked into.
            Defaults to None.

    Yields:
        Path: Below ``folder``; also links that lead nowhere, which nobody can read.
    """
    shut = set() if leave_out is None else {os.path.realpath(leave_out)}
    return _walk(Path(folder), frozenset(shut - {os.path.realpath(folder)}))


def _walk(folder: Path, above: frozenset[str]) -> Iterator[Path]:
    here = os.path.realpath(folder)
    if here in above:
        return
    with os.scandir(folder) as found:
        entries = sorted(found, key=lambda entry: entry.name)
    for entry in entries:
        path = folder / entry.name
        if is_hidden(entry.name):
            continue
        if entry.is_dir():
            yield from _walk(path, above | {here})
        elif entry.is_file() or (entry.is_symlink() and not path.exists()):
            yield path


def find_files(
    folder: str | os.PathLike,
    endings: Iterable[str] | None = None,
    leave_out: str | os.PathLike | None = None,
) -> tuple[list[Path], list[Path]]:
    """Files of a folder and its sub-folders by their endings.

    Args:
        folder (str | PathLike): Where to look, see :func:`walk_files`.
        endings (Iterable[str], optional): In lower case. Defaults to None,
            :func:`image_endings`.
        leave_out (str | PathLike, optional): As there. Defaults to None.

    Returns:
        tuple[list[Path], list[Path]]: Files that end so, and all others, which are
        passed over (:func:`passed_over` says so).
    """
    endings = tuple(image_endings() if endings is None else endings)
    found: tuple[list[Path], list[Path]] = ([], [])
    for path in walk_files(folder, leave_out):
        found[path.suffix.lower() not in endings].append(path)
    return found


def passed_over(files: Sequence[Path], folder: str | os.PathLike) -> str:
    """A sentence about the files of a folder that are not read.

    Args:
        files (Sequence[Path]): The second list of :func:`find_files`.
        folder (str | PathLike): The folder.

    Returns:
        str: How many, of which endings, and the first three names.
    """
    counts = Counter(path.suffix.lower() or 'no ending' for path in files)
    kinds = ', '.join(f'{number} {kind}' for kind, number in counts.most_common(5))
    names = ', '.join(path.relative_to(folder).as_posix() for path in files[:3])
    more = ', …' if len(files) > 3 else ''
    return f'"{folder}" holds files that are not read ({kinds}): {names}{more}'


def read_bytes(path: str | os.PathLike, backend_args: dict | None = None) -> bytes:
    """The content of a file, or of what is at an address.

    Args:
        path (str | PathLike): A path, or an address that begins with http(s)://.
        backend_args (dict, optional): Of mmengine's file backend. Defaults to None.

    Returns:
        bytes: All of it.

    Raises:
        ValueError: If an address sends more than ``MAX_BYTES``.
        OSError: If it cannot be read, or an address takes longer than ``TIMEOUT``.
    """
    path = os.fspath(path)
    if backend_args or not path.startswith(ADDRESSES):
        return fileio.get(path, backend_args=backend_args)
    end, content = time.monotonic() + TIMEOUT, bytearray()
    for part in read_address(path, MAX_BYTES):
        content += part
        if time.monotonic() > end:
            raise TimeoutError(f'it takes longer than {TIMEOUT:.0f} s')
    return bytes(content)


# ---------------------------------------------------------------------------- pixels


def read_image(
    path: str | os.PathLike,
    background: tuple[int, int, int] = WHITE,
    backend_args: dict | None = None,
) -> Image.Image:
    """Read an image file, or what is at an address.

    Args:
        path (str | PathLike): As of :func:`read_bytes`.
        background (tuple[int, int, int]): Colour behind transparent pixels. Defaults to
            white.
        backend_args (dict, optional): Of mmengine's file backend. Defaults to None.

    Returns:
        Image.Image: As of :func:`decode_image`.

    Raises:
        UnreadableImageError: If it cannot be read; the message names the path.
    """
    name = f'"{os.fspath(path)}"'
    try:
        content = read_bytes(path, backend_args)
    except MemoryError:
        raise
    except Exception as error:  # backends have errors of their own
        raise _unreadable(name, error) from error
    return decode_image(content, name, background)


def decode_image(
    content: bytes,
    name: str = 'the image',
    background: tuple[int, int, int] = WHITE,
    max_pixels: int | None = None,
) -> Image.Image:
    """Decode the content of an image file.

    Args:
        content (bytes): Of a format of ``FORMATS``, whatever the file is called.
        name (str): What to call it in an error. Defaults to 'the image'.
        background (tuple[int, int, int]): Colour behind transparent pixels. Defaults to
            white.
        max_pixels (int, optional): Of an image that is decoded. Defaults to None,
            ``MAX_PIXELS``.

    Returns:
        Image.Image: In mode RGB, upright by its EXIF orientation, in memory;
        ``numpy.asarray`` gives H×W×3 uint8.

    Raises:
        UnreadableImageError: If it is empty, truncated, of another format or has more
            pixels.
    """
    image_endings()  # loads the plugins
    formats = [kind for kind in FORMATS if kind in Image.OPEN]
    try:
        if not content:
            raise ValueError('the file is empty')
        with Image.open(io.BytesIO(content), formats=formats) as picture:
            return _upright_rgb(picture, background, max_pixels)
    except UnidentifiedImageError as error:
        raise _unreadable(name, f'it is none of {", ".join(FORMATS)}') from error
    except MemoryError:
        raise
    except Exception as error:  # decoders raise nearly every type there is
        raise _unreadable(name, error) from error


def rgb_picture(
    picture: Image.Image,
    name: str = 'the Pillow image',
    background: tuple[int, int, int] = WHITE,
) -> Image.Image:
    """An image that somebody has opened with Pillow, as :func:`decode_image` gives it.

    Args:
        picture (Image.Image): Of any mode; perhaps a file that is not decoded yet.
        name (str): What to call it in an error. Defaults to 'the Pillow image'.
        background (tuple[int, int, int]): Colour behind transparent pixels. Defaults to
            white.

    Returns:
        Image.Image: In mode RGB, upright, in memory.

    Raises:
        UnreadableImageError: If it cannot be decoded, or is a file of another format.
    """
    try:
        if isinstance(picture, ImageFile.ImageFile):
            if picture.format not in (*FORMATS, *_ALSO):
                raise ValueError(f'{picture.format} is none of {", ".join(FORMATS)}')
        return _upright_rgb(picture, background)
    except MemoryError:
        raise
    except Exception as error:  # as above
        raise _unreadable(name, error) from error


def _unreadable(name: str, reason: Exception | str) -> UnreadableImageError:
    if isinstance(reason, Exception):
        reason = f'{type(reason).__name__}: {reason}'
    return UnreadableImageError(
        f'{name} cannot be read as an image ({reason}): replace or remove it.'
    )


def _upright_rgb(
    picture: Image.Image,
    background: tuple[int, int, int],
    max_pixels: int | None = None,
) -> Image.Image:
    width, height = picture.size
    max_pixels = max_pixels or MAX_PIXELS
    if not 0 < width * height <= max_pixels:
        raise ValueError(
            f'it has {width}×{height} pixels, and 1 to {max_pixels:,} are read'
        )
    picture.load()
    return to_rgb(ImageOps.exif_transpose(picture), background)


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
    if picture.mode == 'La':  # premultiplied; Pillow brings it no further than LA
        picture = picture.convert('LA')
    if picture.mode in ('RGBA', 'LA', 'PA', 'RGBa') or ('transparency' in picture.info):
        layer = picture.convert('RGBA')
        canvas = Image.new('RGBA', layer.size, (*background, 255))
        return Image.alpha_composite(canvas, layer).convert('RGB')
    return picture.convert('RGB')


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
