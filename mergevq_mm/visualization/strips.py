"""Rows of images, each with a title above and notes below, as one array."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

_MARGIN, _GAP = 14, 12
_TITLE, _NOTE = 15, 13  # sizes of letters in pixels
_INK, _GREY = (31, 41, 51), (105, 117, 130)


def strip(
    images: Sequence[np.ndarray],
    titles: Sequence[str],
    notes: Sequence[Sequence[str]] | None = None,
    columns: int | None = None,
) -> np.ndarray:
    """Put equally large images side by side on a white page, with text around each.

    Args:
        images (Sequence[np.ndarray]): H×W×3 uint8 each.
        titles (Sequence[str]): A line above each image.
        notes (Sequence[Sequence[str]], optional): Lines below each image. Defaults to
            None.
        columns (int, optional): Images of a row. Defaults to None, all in one row.

    Returns:
        np.ndarray: The page, H'×W'×3 uint8. A column is wider than the images where a
        text needs it.

    Raises:
        ValueError: If there is no image, shapes differ or texts are missing.
    """
    notes = [()] * len(images) if notes is None else notes
    shapes = {image.shape for image in images}
    if len(shapes) != 1 or not len(images) == len(titles) == len(notes):
        raise ValueError(
            f'images of shapes {sorted(shapes)} have {len(titles)} titles and '
            f'{len(notes)} notes for {len(images)} images; give equally large images '
            'and a text for each.'
        )
    height, width, _ = shapes.pop()
    columns = min(columns or len(images), len(images))
    lines = max(map(len, notes))
    cell_width = max(
        width, *_widths(titles, _TITLE), *_widths(sum(map(list, notes), []), _NOTE)
    )
    above, below = _TITLE + 8, lines * (_NOTE + 5) + (6 if lines else 0)
    cell_height = above + height + below
    rows = -(-len(images) // columns)
    page = Image.new(
        'RGB',
        (
            2 * _MARGIN + columns * cell_width + (columns - 1) * _GAP,
            2 * _MARGIN + rows * cell_height + (rows - 1) * _GAP,
        ),
        'white',
    )
    pen = ImageDraw.Draw(page)
    for i, image in enumerate(images):
        x = _MARGIN + i % columns * (cell_width + _GAP)
        y = _MARGIN + i // columns * (cell_height + _GAP)
        pen.text((x, y), titles[i], fill=_INK, font=_font(_TITLE, titles[i]))
        page.paste(Image.fromarray(image), (x, y + above))
        for j, note in enumerate(notes[i]):
            top = y + above + height + 6 + j * (_NOTE + 5)
            pen.text((x, top), note, fill=_GREY, font=_font(_NOTE, note))
    return np.asarray(page)


def _font(size: int, text: str) -> ImageFont.FreeTypeFont:
    """Pillow's font; for a text such as a file's name, which it may lack, another."""
    if text.isascii():
        return ImageFont.load_default(size=size)
    try:
        from matplotlib import get_data_path
    except ModuleNotFoundError:  # of the train tier
        return ImageFont.load_default(size=size)
    return ImageFont.truetype(f'{get_data_path()}/fonts/ttf/DejaVuSans.ttf', size)


def _widths(texts: Sequence[str], size: int) -> list[int]:
    """Pixels that texts need."""
    return [0, *(int(_font(size, text).getlength(text)) + 1 for text in texts)]
