"""Images that have a number of tokens of their own, from simple to crowded ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from .merge_map import default_scale, draw_merge_map, enlarge
from .strips import strip

_GAP = 4  # pixels between the pictures of an image


class BudgetImage(NamedTuple):
    """An image and what became of it with its own K.

    Attributes:
        original (np.ndarray): H×W×3 uint8.
        made (np.ndarray): The reconstruction, H×W×3 uint8.
        group (np.ndarray): Token of each raster position, L integers.
        psnr (float): Of the reconstruction, dB.
        fixed (float): The same with one K for all images.
    """

    original: np.ndarray
    made: np.ndarray
    group: np.ndarray
    psnr: float
    fixed: float

    @property
    def keep(self) -> int:
        """int: K."""
        return int(self.group.max()) + 1


def budget_sheet(
    images: Sequence[BudgetImage],
    grid: tuple[int, int],
    fixed: int,
    columns: int = 10,
    number: int = 20,
) -> np.ndarray:
    """Images by their K: the original, its groups and the reconstruction.

    Args:
        images (Sequence[BudgetImage]): Of one size; of many a few are shown, evenly
            spread over those in the order of K.
        grid (tuple[int, int]): Rows and columns of the raster.
        fixed (int): K that ``BudgetImage.fixed`` is of.
        columns (int): Images of a row. Defaults to 10.
        number (int): Images at most. Defaults to 20.

    Returns:
        np.ndarray: H'×W'×3 uint8.

    Raises:
        ValueError: If there is no image.
    """
    if not images:
        raise ValueError('images is empty; give at least one.')
    ordered = sorted(images, key=lambda image: (image.keep, -image.psnr))
    spread = np.linspace(0, len(ordered) - 1, min(number, len(ordered)))
    shown = [ordered[i] for i in spread.round().astype(int)]
    notes = [[f'{one.psnr:.1f} dB', f'K = {fixed}: {one.fixed:.1f}'] for one in shown]
    titles = [f'K = {one.keep}' for one in shown]
    return strip([_stacked(one, grid) for one in shown], titles, notes, columns)


def _stacked(image: BudgetImage, grid: tuple[int, int]) -> np.ndarray:
    """The pictures of an image below each other."""
    scale = default_scale(image.original.shape[:2], 96)
    pictures = [
        enlarge(image.original, scale),
        draw_merge_map(image.original, image.group, grid, scale=scale),
        enlarge(image.made, scale),
    ]
    gap = np.full((_GAP, *pictures[0].shape[1:]), 255, dtype=np.uint8)
    rows = [part for picture in pictures for part in (picture, gap)]
    return np.concatenate(rows[:-1])
