"""A page that shows what became of many images of any sizes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from .strips import strip


class SheetRow(NamedTuple):
    """An image and what became of it.

    Attributes:
        name (str): What it is called.
        original (np.ndarray): H×W×3 uint8.
        made (Mapping[int, tuple[np.ndarray, float]]): K to the reconstruction, H×W×3
            uint8, and its PSNR, dB.
    """

    name: str
    original: np.ndarray
    made: Mapping[int, tuple[np.ndarray, float]]


def contact_sheet(rows: Sequence[SheetRow], cell: int = 128) -> np.ndarray:
    """Originals beside their reconstructions, from many tokens to few.

    Args:
        rows (Sequence[SheetRow]): An image each, of any size. Where one has fewer K
            than another, its row ends white.
        cell (int): Edge of a square that each image is fitted into, pixels. Defaults
            to 128.

    Returns:
        np.ndarray: H'×W'×3 uint8.

    Raises:
        ValueError: If there is no row.
    """
    if not rows:
        raise ValueError('rows is empty; give at least one image.')
    columns = 1 + max(len(row.made) for row in rows)
    images, titles, notes = [], [], []
    for row in rows:
        images.append(_fitted(row.original, cell))
        titles.append(_shortened(row.name))
        notes.append(['original'])
        for keep in sorted(row.made, reverse=True):
            image, quality = row.made[keep]
            images.append(_fitted(image, cell))
            titles.append(f'K = {keep}')
            notes.append([f'PSNR {quality:.1f} dB'])
        for _ in range(columns - 1 - len(row.made)):
            images.append(np.full((cell, cell, 3), 255, dtype=np.uint8))
            titles.append('')
            notes.append([])
    return strip(images, titles, notes, columns)


def _fitted(image: np.ndarray, cell: int) -> np.ndarray:
    """An image in the middle of a white square, cell×cell×3; small ones keep pixels."""
    height, width = image.shape[:2]
    scale = cell / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    small = Image.Resampling.NEAREST if scale > 2 else Image.Resampling.LANCZOS
    page = Image.new('RGB', (cell, cell), 'white')
    corner = (cell - size[0]) // 2, (cell - size[1]) // 2
    page.paste(Image.fromarray(image).resize(size, small), corner)
    return np.asarray(page)


def _shortened(name: str, most: int = 20) -> str:
    """A name that does not make its column wide."""
    return name if len(name) <= most else f'{name[: most - 1]}…'
