import numpy as np
import pytest
from skimage.color import rgb2lab

from mergevq_mm.visualization.merge_map import (
    cell_scale,
    default_scale,
    distinct_colours,
    draw_merge_map,
    group_borders,
    mean_colours,
    neighbours,
    palette,
    pixel_groups,
)


def _slow_neighbours(cells):
    touch = np.zeros((cells.max() + 1,) * 2, dtype=bool)
    h, w = cells.shape
    for y in range(h):
        for x in range(w):
            for v in range(max(y - 1, 0), min(y + 2, h)):
                for u in range(max(x - 1, 0), min(x + 2, w)):
                    if cells[y, x] != cells[v, u]:
                        touch[cells[y, x], cells[v, u]] = True
    return touch


def test_neighbours_equal_slow_loop():
    cells = np.random.default_rng(0).integers(0, 12, size=(6, 9))
    cells.flat[:12] = np.arange(12)
    np.testing.assert_array_equal(
        neighbours(cells.reshape(-1), (6, 9)), _slow_neighbours(cells)
    )


def test_palette_colours_differ():
    colours = palette()
    assert colours.shape == (30, 3) and len(np.unique(colours, axis=0)) == 30


@pytest.mark.parametrize('keep', [1, 5, 40, 256])
def test_touching_groups_have_distinct_colours(keep):
    rng = np.random.default_rng(keep)
    rows, columns = np.mgrid[:16, :16]
    seeds = rng.choice(256, size=keep, replace=False)
    distance = (rows.reshape(-1, 1) - seeds // 16) ** 2
    distance = distance + (columns.reshape(-1, 1) - seeds % 16) ** 2
    group = distance.argmin(1)  # Voronoi cells
    colours = distinct_colours(group, (16, 16))
    assert colours.shape == (keep, 3) and colours.dtype == np.uint8
    np.testing.assert_array_equal(colours, distinct_colours(group, (16, 16)))
    lab = rgb2lab(colours[None])[0]
    apart = np.linalg.norm(lab[:, None] - lab[None], axis=-1)
    touch = neighbours(group, (16, 16))
    assert not touch.any() or apart[touch].min() > 35


def test_mean_colours_equal_slow_loop():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, size=(8, 12, 3), dtype=np.uint8)
    group = np.array([0, 1, 1, 2, 0, 2])
    found = mean_colours(image, group, (2, 3))
    cells = group.reshape(2, 3).repeat(4, 0).repeat(4, 1)
    for k in range(3):
        expected = image[cells == k].mean(0).round()
        np.testing.assert_array_equal(found[k], expected)


def test_pixel_groups_when_the_grid_does_not_divide():
    found = pixel_groups(np.arange(3), (1, 3), (2, 7))
    np.testing.assert_array_equal(found, [[0, 0, 0, 1, 1, 2, 2]] * 2)


def test_borders_by_hand():
    labels = np.array([[0, 0, 1], [0, 0, 1], [2, 2, 1]])
    expected = np.array([[0, 0, 1], [0, 0, 1], [1, 1, 1]], dtype=bool)
    np.testing.assert_array_equal(group_borders(labels), expected)
    assert not group_borders(np.zeros((4, 4), dtype=int)).any()
    halves = np.repeat([[0, 1]], 3, axis=0).repeat(4, axis=1)
    for width in (1, 2):
        columns = group_borders(halves, width=width).sum(0)
        np.testing.assert_array_equal(
            columns, [0] * 4 + [3] * width + [0] * (4 - width)
        )


def test_draw_merge_map():
    image = np.full((4, 8, 3), 100, dtype=np.uint8)
    group = np.array([0, 1])
    drawn = draw_merge_map(image, group, (1, 2), scale=3, opacity=0.5)
    assert drawn.shape == (12, 24, 3) and drawn.dtype == np.uint8
    colours = distinct_colours(group, (1, 2)).astype(float)
    np.testing.assert_array_equal(drawn[5, 3], (50 + colours[0] / 2).round())
    np.testing.assert_array_equal(drawn[5, 20], (50 + colours[1] / 2).round())
    assert (drawn[:, 12] == 255).all() and (drawn[:, 11] == drawn[5, 3]).all()
    mean = draw_merge_map(image, group, (1, 2), colours='mean', scale=1)
    assert (mean[:, :4] == 100).all() and (mean[:, 4] == 255).all()


def test_default_scale():
    assert default_scale((32, 32)) == 5
    assert default_scale((64, 48)) == 2
    assert default_scale((256, 256)) == 1
    assert cell_scale((192, 288), (48, 72), 300) == 2  # cells of 4 pixels
    assert cell_scale((192, 288), (12, 18), 300) == 1
    assert cell_scale((64, 96), (16, 24), 300) == 3


def test_bad_input():
    image = np.zeros((8, 8, 3), dtype=np.uint8)
    with pytest.raises(ValueError, match=r'does not fit grid=\(2, 3\)'):
        draw_merge_map(image, np.zeros(4, dtype=int), (2, 3))
    with pytest.raises(ValueError, match="colours='random'"):
        draw_merge_map(image, np.zeros(4, dtype=int), (2, 2), colours='random')
