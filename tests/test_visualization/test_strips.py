"""Rows of images with texts around them."""

from __future__ import annotations

import numpy as np
import pytest

from mergevq_mm.visualization import strip


def _images(number: int, width: int = 90) -> list[np.ndarray]:
    return [np.full((40, width, 3), 10 * (i + 1), np.uint8) for i in range(number)]


def test_images_stand_in_reading_order_and_whole() -> None:
    page = strip(_images(5), [f'n {i}' for i in range(5)], columns=2)
    found = []
    for value in range(10, 60, 10):
        y, x = np.nonzero((page == value).all(axis=-1))
        inside = (page[y.min() : y.max() + 1, x.min() : x.max() + 1] == value).all()
        assert inside and y.max() - y.min() == 39 and x.max() - x.min() == 89
        found.append((y.min(), x.min()))
    assert found == sorted(found)
    assert len({y for y, _ in found}) == 3 and len({x for _, x in found}) == 2


def test_texts_above_and_below() -> None:
    bare = strip(_images(1), [''], [['']])
    titled = strip(_images(1), ['title'], [['']])
    noted = strip(_images(1), [''], [['note']])
    y, x = np.nonzero((bare == 10).all(axis=-1))
    for page, above in ((titled, True), (noted, False)):
        changed = np.nonzero((page != bare).any(axis=-1))[0]
        assert len(changed)
        assert (changed < y.min()).all() if above else (changed > y.max()).all()


def test_a_long_text_widens_the_column() -> None:
    narrow = strip(_images(2, 30), ['a', 'b'])
    wide = strip(_images(2, 30), ['a', 'b'], [['x'], ['1,234,567 + 1,234 bits']])
    assert wide.shape[1] > narrow.shape[1] + 100


@pytest.mark.parametrize(
    'images, titles',
    [([], []), (_images(2), ['one']), (_images(1) + _images(1, 20), ['a', 'b'])],
)
def test_refusals(images: list, titles: list) -> None:
    with pytest.raises(ValueError, match='equally large images'):
        strip(images, titles)


def test_letters_of_other_languages_are_no_boxes() -> None:
    image = np.zeros((4, 60, 3), np.uint8)
    unknown, *pages = (strip([image], [text]) for text in ('\uffff', 'ä', 'ж', 'a'))
    assert len({page.tobytes() for page in pages}) == 3
    assert all(page[:20].tobytes() != unknown[:20].tobytes() for page in pages)
