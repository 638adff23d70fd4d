"""Pictures of a raster that fills up, and of the cache beside it."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image, ImageDraw

from mergevq_mm.visualization.merge_map import palette, pixel_groups
from mergevq_mm.visualization.strips import strip

from .streaming import Moment

SIDE = 320  # pixels of each picture
_WHITE, _EMPTY, _LINE = (255, 255, 255), (241, 243, 245), (206, 212, 218)
_PREFIX, _DOT = (73, 80, 87), (33, 37, 41)


def code_colours(index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A colour for each code, in the order in which they come.

    Args:
        index (np.ndarray): Codes of the raster, L; -1 where there is none.

    Returns:
        tuple[np.ndarray, np.ndarray]: L×3 uint8, light grey where there is none, and
        whether a position is the first of its code, L bool.
    """
    table, number = palette(), {}
    colours = np.tile(np.array(_EMPTY, dtype=np.uint8), (len(index), 1))
    first = np.zeros(len(index), dtype=bool)
    for position, code in enumerate(index.tolist()):
        if code < 0:
            continue
        first[position] = code not in number
        colours[position] = table[number.setdefault(code, len(number)) % len(table)]
    return colours, first


def draw_raster(moment: Moment, grid: tuple[int, int]) -> np.ndarray:
    """The codes that are there: one colour a code, a dot where it came first.

    Args:
        moment (Moment): What to draw.
        grid (tuple[int, int]): Rows and columns.

    Returns:
        np.ndarray: SIDE×SIDE×3 uint8.
    """
    colours, first = code_colours(moment.index)
    return _cells(colours, first, grid)


def draw_cache(moment: Moment, full_slots: int) -> np.ndarray:
    """The slots of the cache: dark the prefix, with a dot what stays, pale the window.

    Args:
        moment (Moment): What to draw.
        full_slots (int): Slots of the full cache, which set the scale.

    Returns:
        np.ndarray: SIDE×SIDE×3 uint8.
    """
    columns = math.ceil(math.sqrt(full_slots))
    colours, _ = code_colours(moment.index)
    cells = np.tile(np.array(_WHITE, dtype=np.uint8), (len(moment.slots), 1))
    dots = np.zeros(len(cells), dtype=bool)
    for slot, place in enumerate(moment.slots.tolist()):
        if place < 0:
            continue
        if place < moment.prefix:
            cells[slot] = _PREFIX
            continue
        colour = colours[place - moment.prefix]
        dots[slot] = moment.kept[slot]
        # A repetition goes when the window has moved on.
        cells[slot] = colour if dots[slot] else colour // 2 + 127
    return _cells(cells, dots, (math.ceil(full_slots / columns), columns))


def _cells(colours: np.ndarray, dots: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """Squares on white, row by row; what a grid has more stays white."""
    rows, columns = grid
    side = SIDE // max(rows, columns)
    page = Image.new('RGB', (SIDE, SIDE), _WHITE)
    pen = ImageDraw.Draw(page)
    left, top = (SIDE - columns * side) // 2, (SIDE - rows * side) // 2
    gap = 1 if side >= 6 else 0
    for number, (colour, dot) in enumerate(zip(colours, dots, strict=True)):
        x, y = left + number % columns * side, top + number // columns * side
        box = (x, y, x + side - 1 - gap, y + side - 1 - gap)
        pen.rectangle(box, fill=tuple(int(c) for c in colour), outline=_LINE)
        if dot and side >= 6:
            middle, radius = (side - 1 - gap) / 2, max(1.0, side / 9)
            at = (x + middle, y + middle)
            pen.ellipse(
                (at[0] - radius, at[1] - radius, at[0] + radius, at[1] + radius),
                fill=_DOT,
            )
    return np.asarray(page)


def fade_missing(
    image: np.ndarray, moment: Moment, grid: tuple[int, int]
) -> np.ndarray:
    """The image at SIDE×SIDE, nearly white where no token is drawn yet.

    Args:
        image (np.ndarray): H×W×3 uint8.
        moment (Moment): What is there.
        grid (tuple[int, int]): Rows and columns.

    Returns:
        np.ndarray: SIDE×SIDE×3 uint8.
    """
    small = min(image.shape[:2]) < 64
    kind = Image.Resampling.NEAREST if small else Image.Resampling.BICUBIC
    scale = SIDE / max(image.shape[:2])
    size = (round(image.shape[1] * scale), round(image.shape[0] * scale))
    picture = np.asarray(Image.fromarray(image).resize(size, kind)).astype(np.float32)
    missing = pixel_groups((moment.index < 0).astype(np.int64), grid, picture.shape[:2])
    picture[missing > 0] = 0.08 * picture[missing > 0] + 0.92 * 248
    page = np.full((SIDE, SIDE, 3), 255, dtype=np.uint8)
    top, left = (SIDE - size[1]) // 2, (SIDE - size[0]) // 2
    page[top : top + size[1], left : left + size[0]] = picture.round().astype(np.uint8)
    return page


def draw_moment(image: np.ndarray, moment: Moment, grid: tuple[int, int]) -> np.ndarray:
    """Image, raster and cache side by side.

    Args:
        image (np.ndarray): What the codes so far decode to, H×W×3 uint8.
        moment (Moment): What is there.
        grid (tuple[int, int]): Rows and columns.

    Returns:
        np.ndarray: H'×W'×3 uint8.
    """
    length = len(moment.index)
    occupied = int((moment.slots >= 0).sum())
    distinct = len(set(moment.index[moment.index >= 0].tolist()))
    full = moment.prefix + moment.drawn
    size = occupied * moment.slot_bytes / 1024
    return strip(
        [
            fade_missing(image, moment, grid),
            draw_raster(moment, grid),
            draw_cache(moment, moment.prefix + length),
        ],
        [
            'image so far',
            f'token {moment.drawn} of {length}',
            f'cache: {occupied} slots',
        ],
        [
            ['pale: no token yet'],
            [f'{distinct} distinct codes', 'dot: the first of its code'],
            [
                f'{size:,.1f} KiB; with all tokens {full} slots',
                'dark: class and K; dot: stays; pale: goes soon',
            ],
        ],
    )
