"""Pictures of groups, growth, reconstructions and attention."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from mergevq_mm.visualization import (
    attention_strip,
    draw_attention,
    growth_strip,
    merge_panel,
    outline_groups,
    paint_groups,
    reconstruction_strip,
)
from mergevq_mm.visualization.merging import _grown

GROUP = np.array([0, 0, 1, 2])  # of 2×2 cells: the upper two are one
GRID = (2, 2)


def _image() -> np.ndarray:
    image = np.zeros((8, 8, 3), np.uint8)
    image[:4, :4], image[:4, 4:] = 100, 50
    image[4:, :4], image[4:, 4:] = 200, 240
    return image


def test_outlines_are_where_groups_meet() -> None:
    found = outline_groups(_image(), GROUP, GRID, scale=4)
    white = (found == 255).all(axis=-1)
    assert white[16].all() and white[16:, 16].all()  # below the pair, and between two
    assert not white[:16].any()  # none inside of the pair
    assert (found[15, 2] == 50).all()  # the rim is half as bright
    assert (found[4, 4] == 100).all() and (found[28, 28] == 240).all()


def test_each_group_is_painted_in_its_mean() -> None:
    found = paint_groups(_image(), GROUP, GRID, scale=2)
    assert found.shape == (16, 16, 3)
    assert (found[:8] == 75).all()
    assert (found[8:, :8] == 200).all() and (found[8:, 8:] == 240).all()


def test_panel_holds_its_parts() -> None:
    page = merge_panel(_image(), GROUP, GRID, scale=32)
    for part in (
        _image().repeat(32, 0).repeat(32, 1),
        outline_groups(_image(), GROUP, GRID, 32),
        paint_groups(_image(), GROUP, GRID, 32),
    ):
        assert _contains(page, part)


def _contains(page: np.ndarray, part: np.ndarray) -> bool:
    height, width, _ = part.shape
    for y, x in zip(*np.nonzero((page == part[0, 0]).all(axis=-1))):
        if np.array_equal(page[y : y + height, x : x + width], part):
            return True
    return False


def test_growth_colours_what_has_merged() -> None:
    colours = np.full((8, 8, 3), (200, 0, 0), np.float32)
    grey = _image()
    none = _grown(grey, np.arange(4), GRID, colours)
    np.testing.assert_array_equal(none, grey)  # nobody has company yet: no lines either
    some = _grown(grey, GROUP, GRID, colours)
    assert some[1, 1].tolist() == [170, 30, 30]  # 0.3 · 100 + 0.7 · 200
    assert some[1, 6].tolist() == [155, 15, 15]
    assert (some[6, 1] == 200).all() and (some[6, 6] == 240).all()


def test_growth_has_a_picture_for_each_layer() -> None:
    one = growth_strip(_image(), [np.arange(4)], GRID, scale=20)
    three = growth_strip(
        _image(), [np.arange(4), GROUP, np.zeros(4, np.int64)], GRID, scale=20
    )
    assert three.shape[0] == one.shape[0]
    assert three.shape[1] - one.shape[1] == 2 * ((one.shape[1] - 28 - 12) // 2 + 12)
    with pytest.raises(ValueError, match='groups is empty'):
        growth_strip(_image(), [], GRID)


def test_strip_says_psnr_and_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = {}

    def remember(images, titles, notes, columns) -> np.ndarray:
        seen.update(images=images, titles=titles, notes=notes)
        return np.zeros((1, 1, 3), np.uint8)

    monkeypatch.setattr('mergevq_mm.visualization.merging.strip', remember)
    original = torch.full((3, 8, 8), 100 / 255)
    off = torch.full((3, 8, 8), 110 / 255)
    bits = {4: (72, 32), 16: (288, 0)}
    reconstruction_strip(original, {4: off, 16: original + 1 / 255}, bits, scale=1)
    assert seen['titles'] == ['original', 'K = 16', 'K = 4']
    best, worst = 20 * math.log10(255), 20 * math.log10(255 / 10)
    assert seen['notes'] == [
        ['1,536 bits', 'as 8-bit RGB'],
        [f'PSNR {best:.1f} dB', '288 + 0 bits'],
        [f'PSNR {worst:.1f} dB', '72 + 32 bits'],
    ]
    assert [int(image[0, 0, 0]) for image in seen['images']] == [100, 101, 110]
    with pytest.raises(ValueError, match='reconstructions is empty'):
        reconstruction_strip(original, {}, {})


def test_attention_is_bright_where_it_is_large() -> None:
    image = np.full((64, 64, 3), 128, np.uint8)
    weights = np.zeros(16)
    weights[5] = 1.0  # row 1, column 1
    found = draw_attention(image, weights, (4, 4), scale=1).sum(axis=-1)
    y, x = np.unravel_index(found.argmax(), found.shape)
    assert 16 <= y < 32 and 16 <= x < 32
    assert found[60, 60] < found[24, 24] / 2
    with pytest.raises(ValueError, match='does not fit'):
        draw_attention(image, weights[1:], (4, 4))


def test_attention_strip_has_mean_and_heads(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []

    def remember(image, attention, grid, scale) -> np.ndarray:
        drawn.append(np.array(attention))
        return np.zeros((8 * scale, 8 * scale, 3), np.uint8)

    monkeypatch.setattr('mergevq_mm.visualization.merging.draw_attention', remember)
    weights = torch.tensor([[0.1, 0.2, 0.3, 0.4], [0.3, 0.2, 0.1, 0.0]])
    attention_strip(_image(), weights, GRID, scale=3)
    np.testing.assert_allclose(drawn[0], [0.2] * 4, rtol=1e-6)
    np.testing.assert_allclose(drawn[1:], weights, rtol=1e-6)
