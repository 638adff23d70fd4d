import os

import numpy as np
import pytest
import torch
from PIL import Image

from mergevq_mm.visualization import (
    draw_merge_map,
    reconstruction_columns,
    reconstruction_grid,
    save_png,
    tile,
    to_uint8,
)


def _sample(keeps=(1, 4), learned=False):
    image = torch.rand(3, 32, 32)
    groups = {1: torch.zeros(4, dtype=torch.long), 4: torch.arange(4)}
    reconstructions = {
        keep: dict(image=image * keep / 4, group=groups[keep]) for keep in keeps
    }
    if learned:
        for result in reconstructions.values():
            result['predicted_image'] = image
    return dict(original=image, grid=(2, 2), reconstructions=reconstructions)


def test_to_uint8():
    image = torch.tensor([-1.0, 0.5, 2.0, torch.nan]).reshape(1, 2, 2)
    found = to_uint8(image.expand(3, -1, -1))
    np.testing.assert_array_equal(found[..., 0], [[0, 128], [255, 0]])


def test_tile_puts_images_where_they_belong():
    images = [
        [np.full((10, 20, 3), 10 * (3 * r + c), np.uint8) for c in range(3)]
        for r in range(2)
    ]
    page = tile(images)
    assert page.shape == (6 + 2 * 16, 6 + 3 * 26, 3)
    for r in range(2):
        for c in range(3):
            y, x = 6 + 16 * r, 6 + 26 * c
            assert (page[y : y + 10, x : x + 20] == 10 * (3 * r + c)).all()
            assert (page[y - 1, x - 1 : x + 21] == 255).all()
    captioned = tile(images, ['a', 'b', 'c'])
    assert captioned.shape[0] == page.shape[0] + 18
    np.testing.assert_array_equal(captioned[24:], page[6:])
    assert captioned[6:24].min() < 100  # there is text
    with pytest.raises(ValueError, match='give equal shapes'):
        tile([[images[0][0], images[0][0][:5]]])


def test_reconstruction_grid():
    samples = [_sample(), _sample()]
    page = reconstruction_grid(samples, scale=2)
    assert page.shape == (24 + 2 * 70, 6 + 5 * 70, 3)
    first = to_uint8(samples[1]['original']).repeat(2, 0).repeat(2, 1)
    np.testing.assert_array_equal(page[94:158, 6:70], first)
    last = to_uint8(samples[1]['original']).repeat(2, 0).repeat(2, 1)
    np.testing.assert_array_equal(page[94:158, 286:350], last)
    one = reconstruction_grid(samples, keeps=[4], scale=2)
    assert one.shape[1] == 6 + 3 * 70
    np.testing.assert_array_equal(one[24:, 146:], page[24:, 286:])
    learned = reconstruction_grid([_sample(learned=True)], scale=2)
    assert learned.shape[1] == 6 + 7 * 70
    with pytest.raises(ValueError, match='samples is empty'):
        reconstruction_grid([])
    with pytest.raises(ValueError, match=r'names \[3\]'):
        reconstruction_grid(samples, keeps=[3])


def test_reconstruction_columns():
    samples = [_sample(), _sample(learned=True)]
    page = reconstruction_columns(samples, ['one', 'two'], scale=2)
    assert page.shape == (24 + 4 * 70, 6 + 2 * 70, 3)
    original = to_uint8(samples[1]['original'])
    shown = {
        0: original.repeat(2, 0).repeat(2, 1),
        1: original.repeat(2, 0).repeat(2, 1),  # of all four tokens, without groups
        2: draw_merge_map(original, np.zeros(4, np.int64), (2, 2), scale=2),
        3: to_uint8(samples[1]['original'] / 4).repeat(2, 0).repeat(2, 1),
    }
    for row, image in shown.items():
        top = 24 + 70 * row
        np.testing.assert_array_equal(page[top : top + 64, 76:140], image)
    with pytest.raises(ValueError, match='samples is empty'):
        reconstruction_columns([])


def test_save_png(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    path = tmp_path / 'new' / 'a.png'
    save_png(path, image)
    np.testing.assert_array_equal(np.asarray(Image.open(path)), image)
    assert os.listdir(path.parent) == ['a.png']


def test_save_png_on_a_full_disk(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(os, 'fsync', full)
    with pytest.raises(OSError, match=r'Saving \d+ bytes to ".*a.png" failed'):
        save_png(tmp_path / 'a.png', np.zeros((2, 2, 3), dtype=np.uint8))
    assert os.listdir(tmp_path) == []
