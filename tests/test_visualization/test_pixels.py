"""Operations on pictures, compared with OpenCV's."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from mergevq_mm.visualization import merge_map, pixels
from mergevq_mm.visualization.merge_map import distinct_colours, palette


def _image(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def test_grey() -> None:
    image = _image(300, 200, 3)
    assert (pixels.grey(image) == cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)).all()


@pytest.mark.parametrize('width', [1, 2, 3, 4, 5])
def test_dilate(width: int) -> None:
    mask = _image(20, 30) > 250
    wanted = cv2.dilate(mask.astype(np.uint8), np.ones((width, width), np.uint8))
    found = pixels.dilate(mask, width)
    assert found.dtype == bool and (found == wanted).all()


def test_cubic_enlargement() -> None:
    for image in (_image(9, 7, 3), _image(9, 7).astype(np.float32) / 255):
        found = pixels.resize_cubic(image, (21, 27))
        wanted = cv2.resize(image, (21, 27), interpolation=cv2.INTER_CUBIC)
        assert found.shape == wanted.shape and found.dtype == wanted.dtype
        whole = image.dtype == np.uint8  # OpenCV rounds its weights there
        distance = np.abs(found.astype(float) - wanted).max()
        assert distance <= (1 if whole else 1e-5)


def _lab_of_opencv(colours: np.ndarray) -> np.ndarray:
    single = colours[None].astype(np.float32) / 255
    return cv2.cvtColor(single, cv2.COLOR_RGB2LAB)[0]


def test_distances_of_colours(monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenCV 5 rounds them to eighths; the same colours are chosen."""
    distance = np.abs(pixels.lab(palette()) - _lab_of_opencv(palette())).max()
    assert distance < 0.3
    groups = [np.random.default_rng(i).integers(0, 40, 64) for i in range(5)]
    groups = [np.unique(group, return_inverse=True)[1] for group in groups]
    own = [distinct_colours(group, (8, 8)) for group in groups]
    monkeypatch.setattr(merge_map, 'lab', _lab_of_opencv)
    theirs = [distinct_colours(group, (8, 8)) for group in groups]
    assert all((a == b).all() for a, b in zip(own, theirs, strict=True))
    grey = pixels.lab(np.array([[0, 0, 0], [255, 255, 255]], np.uint8))
    assert np.abs(grey - [[0, 0, 0], [100, 0, 0]]).max() < 0.01
