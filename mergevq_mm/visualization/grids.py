"""Grids of images with captions, as arrays and as PNG files."""

from __future__ import annotations

import io
import math
import os
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from mergevq_mm.utils.fileio import write_atomically

from .merge_map import default_scale, draw_merge_map, enlarge

_GUTTER = 6
_CAPTION = 18  # height of a line of captions in pixels


def to_uint8(image: Tensor) -> np.ndarray:
    """An image tensor as an array that can be drawn on.

    Args:
        image (Tensor): 3×H×W in [0, 1]; clamped, NaN becomes black.

    Returns:
        np.ndarray: H×W×3 uint8, RGB.
    """
    values = torch.nan_to_num(image.detach().float()).clamp(0, 1).mul(255).round()
    return values.byte().permute(1, 2, 0).cpu().numpy()  # 3×H×W -> H×W×3


def tile(
    rows: Sequence[Sequence[np.ndarray]], captions: Sequence[str] | None = None
) -> np.ndarray:
    """Put equally large images on a white page.

    Args:
        rows (Sequence[Sequence[np.ndarray]]): R rows of C images, H×W×3 uint8.
        captions (Sequence[str], optional): A caption over each column, cut to its
            width. Defaults to None.

    Returns:
        np.ndarray: The page, H'×W'×3 uint8.

    Raises:
        ValueError: If there is no image, or shapes or row lengths differ.
    """
    shapes = {image.shape for row in rows for image in row}
    if len(shapes) != 1 or len({len(row) for row in rows}) != 1:
        raise ValueError(
            f'rows hold images of shapes {sorted(shapes)} and '
            f'{sorted({len(row) for row in rows})} images a row; give equal shapes and '
            'equally long rows.'
        )
    height, width, _ = shapes.pop()
    top = _GUTTER + (_CAPTION if captions else 0)
    page = np.full(
        (
            top + len(rows) * (height + _GUTTER),
            _GUTTER + len(rows[0]) * (width + _GUTTER),
            3,
        ),
        255,
        dtype=np.uint8,
    )
    for r, row in enumerate(rows):
        for c, image in enumerate(row):
            y, x = top + r * (height + _GUTTER), _GUTTER + c * (width + _GUTTER)
            page[y : y + height, x : x + width] = image
    for c, caption in enumerate(captions or ()):
        x = _GUTTER + c * (width + _GUTTER)
        page[_GUTTER : _GUTTER + _CAPTION, x : x + width] = _caption(caption, width)
    return page


def reconstruction_grid(
    samples: Sequence[Mapping],
    keeps: Sequence[int] | None = None,
    colours: str = 'distinct',
    scale: int | None = None,
) -> np.ndarray:
    """Originals, merge maps and reconstructions, one image a row.

    The columns are the original and, for each K, the groups drawn over the original and
    the reconstruction; where predictions were also decoded with the predicted group
    map, that reconstruction follows.

    Args:
        samples (Sequence[Mapping]): Predictions with ``original``, ``grid`` and
            ``reconstructions``.
        keeps (Sequence[int], optional): Show only these numbers of kept tokens.
            Defaults to None, all, in ascending order.
        colours (str): Colours of the groups, see :func:`draw_merge_map`. Defaults to
            'distinct'.
        scale (int, optional): Whole factor of enlargement. Defaults to None, to about
            160 pixels or more.

    Returns:
        np.ndarray: H'×W'×3 uint8.

    Raises:
        ValueError: If there are no samples, or one of ``keeps`` was not reconstructed.
    """
    if not samples:
        raise ValueError('samples is empty; give at least one prediction.')
    there = sorted(samples[0]['reconstructions'])
    missing = [keep for keep in keeps or () if keep not in there]
    if missing:
        raise ValueError(
            f'keeps={list(keeps or ())} names {missing}, but reconstructions are at '
            f"{there} only; add them to the model's test_cfg or leave them out."
        )
    rows, captions = [], ['original']
    for sample in samples:
        original = to_uint8(sample['original'])
        factor = scale or default_scale(original.shape[:2])
        row, captions = [enlarge(original, factor)], ['original']
        for keep in there if keeps is None else keeps:
            result = sample['reconstructions'][keep]
            group = result['group'].cpu().numpy()
            row.append(
                draw_merge_map(
                    original, group, tuple(sample['grid']), colours, scale=factor
                )
            )
            row.append(enlarge(to_uint8(result['image']), factor))
            captions += [f'{keep} groups', f'K = {keep}']
            if 'predicted_image' in result:
                row.append(enlarge(to_uint8(result['predicted_image']), factor))
                captions.append(f'K = {keep}, predicted')
        rows.append(row)
    return tile(rows, captions)


def reconstruction_columns(
    samples: Sequence[Mapping],
    captions: Sequence[str] | None = None,
    scale: int | None = None,
) -> np.ndarray:
    """What tokens say, one image a column.

    From above: the original; for each K, from many to few, the groups drawn over the
    original and the reconstruction with the true map. Of a K that keeps all positions
    there are no groups to see.

    Args:
        samples (Sequence[Mapping]): As :func:`reconstruction_grid` takes them.
        captions (Sequence[str], optional): Over each column. Defaults to None.
        scale (int, optional): Whole factor of enlargement. Defaults to None, to about
            160 pixels or more.

    Returns:
        np.ndarray: H'×W'×3 uint8.

    Raises:
        ValueError: If there are no samples.
    """
    if not samples:
        raise ValueError('samples is empty; give at least one prediction.')
    columns = []
    for sample in samples:
        original, grid = to_uint8(sample['original']), tuple(sample['grid'])
        factor = scale or default_scale(original.shape[:2])
        column = [enlarge(original, factor)]
        for keep, result in sorted(sample['reconstructions'].items(), reverse=True):
            if keep < math.prod(grid):
                group = result['group'].cpu().numpy()
                column.append(draw_merge_map(original, group, grid, scale=factor))
            column.append(enlarge(to_uint8(result['image']), factor))
        columns.append(column)
    return tile(list(zip(*columns)), captions)


def sample_grid(
    images: Sequence[np.ndarray],
    columns: int,
    scale: int | None = None,
    captions: Sequence[str] | None = None,
) -> np.ndarray:
    """Generated images row by row; what is left of the last row stays white.

    Args:
        images (Sequence[np.ndarray]): H×W×3 uint8, all of one size.
        columns (int): Images of a row.
        scale (int, optional): Whole factor of enlargement. Defaults to None: images of
            less than 64 pixels are doubled.
        captions (Sequence[str], optional): Over each column. Defaults to None.

    Returns:
        np.ndarray: H'×W'×3 uint8.

    Raises:
        ValueError: If there are no images.
    """
    if not len(images):
        raise ValueError('images is empty; give at least one.')
    if scale is None:
        scale = 2 if min(images[0].shape[:2]) < 64 else 1
    images = [enlarge(image, scale) for image in images]
    columns = min(columns, len(images))
    missing = -len(images) % columns
    images += [np.full_like(images[0], 255)] * missing
    rows = [images[i : i + columns] for i in range(0, len(images), columns)]
    return tile(rows, captions)


def save_png(
    path: str | os.PathLike, image: np.ndarray, author: str = 'mergevq_mm'
) -> None:
    """Write an image H×W×3 uint8 (RGB) as PNG and make its folder.

    The file appears at once or not at all: it is written under another name first.

    Args:
        path (str | PathLike): Where to.
        image (np.ndarray): H×W×3 uint8.
        author (str): Noted in the file, for :func:`png_author`. Defaults to
            'mergevq_mm'.

    Raises:
        OSError: If it cannot be written, for example on a full disk.
    """
    note, content = PngInfo(), io.BytesIO()
    note.add_text('Software', author)
    Image.fromarray(image).save(content, format='PNG', pnginfo=note)
    write_atomically(content.getvalue(), path)


def png_author(path: str | os.PathLike) -> str | None:
    """Which program wrote a file.

    Args:
        path (str | PathLike): Of a file that there may be.

    Returns:
        str | None: What the PNG says; None where it says nothing or there is none.
    """
    try:
        with Image.open(path, formats=['PNG']) as picture:
            return picture.info.get('Software')
    except Exception:  # no PNG, in one of many ways
        return None


def _caption(text: str, width: int) -> np.ndarray:
    """Dark text on a white strip, _CAPTION×width×3 uint8."""
    strip = Image.new('RGB', (width, _CAPTION), 'white')
    font = ImageFont.load_default(size=13)
    ImageDraw.Draw(strip).text((1, 0), text, fill=(40, 40, 40), font=font)
    return np.asarray(strip)
