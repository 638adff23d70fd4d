"""Pictures of which raster positions share a token.

Each group gets one colour, blended over the image, and thin lines where groups meet.
Pure functions on arrays; images are H×W×3 uint8 in RGB.
"""

from __future__ import annotations

import colorsys

import numpy as np

from .pixels import dilate, grey, lab

# CIE Lab distance from which two colours are taken to be well apart.
_APART = 40.0


def palette() -> np.ndarray:
    """Thirty distinct colours: ten hues, each in three tones.

    Returns:
        np.ndarray: 30×3 uint8, RGB.
    """
    tones = ((0.7, 1.0), (0.4, 0.95), (0.8, 0.7))  # saturation, value
    colours = [
        colorsys.hsv_to_rgb((hue + 0.33 * tone) / 10, *tones[tone])
        for tone in range(len(tones))
        for hue in (0, 6, 3, 8, 1, 5, 9, 2, 7, 4)
    ]
    return (np.array(colours) * 255).round().astype(np.uint8)


def neighbours(group: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """Which groups touch, also at corners.

    Args:
        group (np.ndarray): Group of each raster position, L = h·w integers.
        grid (tuple[int, int]): Rows h and columns w.

    Returns:
        np.ndarray: K×K bool, symmetric, False on the diagonal.
    """
    cells = _cells(group, grid)
    touch = np.zeros((cells.max() + 1,) * 2, dtype=bool)
    for a, b in (
        (cells[:, 1:], cells[:, :-1]),
        (cells[1:], cells[:-1]),
        (cells[1:, 1:], cells[:-1, :-1]),
        (cells[1:, :-1], cells[:-1, 1:]),
    ):
        touch[a, b] = touch[b, a] = True
    np.fill_diagonal(touch, False)
    return touch


def distinct_colours(group: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """A colour for each group, well apart from those of the groups that it touches.

    Greedy in the order of the groups and deterministic: among the palette's colours
    that are well apart from the neighbours' in CIE Lab the least used one, or the one
    furthest apart if none is.

    Args:
        group (np.ndarray): Group of each raster position, L = h·w integers.
        grid (tuple[int, int]): Rows h and columns w.

    Returns:
        np.ndarray: K×3 uint8, RGB.
    """
    colours = palette()
    places = lab(colours)
    distance = np.linalg.norm(places[:, None] - places[None], axis=-1)  # 30×30
    touch = neighbours(group, grid)
    chosen = np.zeros(len(touch), dtype=np.int64)
    used = np.zeros(len(colours), dtype=np.int64)
    for k in range(len(touch)):
        around = chosen[:k][touch[k, :k]]
        nearest = distance[:, around].min(axis=1, initial=np.inf)
        apart = np.flatnonzero(nearest >= _APART)
        best = apart[used[apart].argmin()] if len(apart) else nearest.argmax()
        chosen[k] = best
        used[best] += 1
    return colours[chosen]


def mean_colours(
    image: np.ndarray, group: np.ndarray, grid: tuple[int, int]
) -> np.ndarray:
    """The mean colour of the image over each group.

    Args:
        image (np.ndarray): H×W×3 uint8.
        group (np.ndarray): Group of each raster position, L = h·w integers.
        grid (tuple[int, int]): Rows h and columns w.

    Returns:
        np.ndarray: K×3 uint8, RGB.
    """
    labels = pixel_groups(group, grid, image.shape[:2]).reshape(-1)
    count = np.maximum(np.bincount(labels), 1)
    sums = [np.bincount(labels, image[..., c].reshape(-1)) for c in range(3)]
    return (np.stack(sums, axis=1) / count[:, None]).round().astype(np.uint8)


def pixel_groups(
    group: np.ndarray, grid: tuple[int, int], size: tuple[int, int]
) -> np.ndarray:
    """The group of each pixel: the raster enlarged to a size by nearest neighbour.

    Args:
        group (np.ndarray): Group of each raster position, L = h·w integers.
        grid (tuple[int, int]): Rows h and columns w.
        size (tuple[int, int]): Height H and width W in pixels.

    Returns:
        np.ndarray: H×W integers.
    """
    cells = _cells(group, grid)
    rows = np.arange(size[0]) * grid[0] // size[0]
    columns = np.arange(size[1]) * grid[1] // size[1]
    return cells[rows[:, None], columns[None]]


def group_borders(labels: np.ndarray, width: int = 1) -> np.ndarray:
    """Pixels on the lines where two groups meet.

    Args:
        labels (np.ndarray): Group of each pixel, H×W integers.
        width (int): Width of the lines in pixels. Defaults to 1.

    Returns:
        np.ndarray: H×W bool.
    """
    border = np.zeros(labels.shape, dtype=bool)
    border[1:] |= labels[1:] != labels[:-1]
    border[:, 1:] |= labels[:, 1:] != labels[:, :-1]
    return dilate(border, width)


def draw_merge_map(
    image: np.ndarray,
    group: np.ndarray,
    grid: tuple[int, int],
    colours: str = 'distinct',
    opacity: float = 0.6,
    scale: int | None = None,
) -> np.ndarray:
    """Draw the groups over an image.

    Args:
        image (np.ndarray): H×W×3 uint8.
        group (np.ndarray): Group of each raster position, L = h·w integers.
        grid (tuple[int, int]): Rows h and columns w.
        colours (str): 'distinct' hues, or the 'mean' colour of the image over each
            group, which shows what one token per group could say at best. Defaults to
            'distinct'.
        opacity (float): How strongly the colours cover the image, in [0, 1]. Defaults
            to 0.6; for 'mean' the cover is always full.
        scale (int, optional): Whole factor of enlargement before drawing. Defaults to
            None, see :func:`default_scale`.

    Returns:
        np.ndarray: H·scale × W·scale × 3 uint8.

    Raises:
        ValueError: If ``colours`` is unknown or ``group`` does not fit ``grid``.
    """
    if colours not in ('distinct', 'mean'):
        raise ValueError(
            f"colours={colours!r} of a merge map is not known; choose 'distinct' or "
            "'mean'."
        )
    group = np.asarray(group)
    if colours == 'mean':
        table, opacity = mean_colours(image, group, grid), 1.0
    else:
        table = distinct_colours(group, grid)
    picture = enlarge(image, scale or default_scale(image.shape[:2]))
    labels = pixel_groups(group, grid, picture.shape[:2])
    # Hues go over a grey picture, or its own colours would be taken for groups.
    dull = grey(picture)[..., None]
    blended = (1 - opacity) * dull + opacity * table[labels]
    border = group_borders(labels, width=max(1, min(picture.shape[:2]) // 256))
    blended[border] = 255
    return blended.round().astype(np.uint8)


def enlarge(image: np.ndarray, scale: int) -> np.ndarray:
    """Repeat each pixel: H×W×3 to H·scale × W·scale × 3."""
    return image.repeat(scale, axis=0).repeat(scale, axis=1)


def default_scale(size: tuple[int, int], target: int = 160) -> int:
    """The whole factor that brings the longer side to about ``target`` pixels or more.

    Args:
        size (tuple[int, int]): Height and width.
        target (int): Wanted length in pixels. Defaults to 160.

    Returns:
        int: At least 1.
    """
    return max(1, round(target / max(size)))


def cell_scale(size: tuple[int, int], grid: tuple[int, int], target: int) -> int:
    """As :func:`default_scale`, but lines leave something of each cell to see.

    Args:
        size (tuple[int, int]): Height and width.
        grid (tuple[int, int]): Rows and columns.
        target (int): Wanted length of the longer side in pixels.

    Returns:
        int: At least 1, and so that a cell has 8 pixels or more.
    """
    return max(default_scale(size, target), -(-8 * grid[0] // size[0]))


def _cells(group: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """The raster h×w of a group map."""
    group = np.asarray(group)
    if group.size != grid[0] * grid[1]:
        raise ValueError(
            f'group with {group.size} positions does not fit grid={tuple(grid)}; give '
            'the grid of the encoder that made it.'
        )
    return group.reshape(grid)
