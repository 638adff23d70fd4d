"""The page of images with a K each: order, choice, what is shown where."""

from __future__ import annotations

import numpy as np
import pytest

from mergevq_mm.visualization import BudgetImage, budget_sheet, draw_merge_map, strip


def _image(keep: int, grey: int) -> BudgetImage:
    """A flat image of so many tokens."""
    flat = np.full((8, 8, 3), grey, dtype=np.uint8)
    group = np.minimum(np.arange(16), keep - 1)
    return BudgetImage(flat, flat + 1, group, 20.0 + keep, 25.0)


def test_images_come_in_the_order_of_their_tokens() -> None:
    images = [_image(9, 10), _image(2, 20), _image(16, 30), _image(4, 40)]
    page = budget_sheet(images, (4, 4), fixed=8, columns=2, number=3)
    gap = np.full((4, 96, 3), 255, dtype=np.uint8)
    stacked = []
    for one in (images[1], images[0], images[2]):  # 2, (4 is left out), 9, 16
        large = one.original.repeat(12, 0).repeat(12, 1)
        groups = draw_merge_map(one.original, one.group, (4, 4), scale=12)
        stacked.append(np.concatenate([large, gap, groups, gap, large + 1]))
    notes = [[f'{psnr:.1f} dB', 'K = 8: 25.0'] for psnr in (22.0, 29.0, 36.0)]
    expected = strip(stacked, ['K = 2', 'K = 9', 'K = 16'], notes, columns=2)
    assert np.array_equal(page, expected)
    with pytest.raises(ValueError, match='images is empty'):
        budget_sheet([], (4, 4), 8)
