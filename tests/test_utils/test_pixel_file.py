"""Pixels of many images in one file."""

from __future__ import annotations

import io
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from mergevq_mm.utils.pixel_file import PixelFile


def test_images_in_any_order_by_any_writer(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (20, 5, 7, 3), np.uint8)
    files = [PixelFile(tmp_path / 'new' / 'pixels') for _ in range(2)]
    with ThreadPoolExecutor(4) as pool:
        for number in np.random.default_rng(1).permutation(20):
            pool.submit(files[number % 2].write, int(number), images[number])
    assert files[0].shape == files[1].shape == (5, 7, 3)
    whole = io.BytesIO(b'head')
    whole.seek(4)
    files[0].copy_to(whole, 20)
    assert whole.getvalue() == b'head' + images.tobytes()


def test_what_is_missing_is_told(tmp_path: Path) -> None:
    pixels = PixelFile(tmp_path / 'pixels')
    pixels.write(1, np.zeros((2, 2, 3), np.uint8))
    with pytest.raises(ValueError, match='pixels lacks 12 bytes of pixels; let all'):
        pixels.copy_to(io.BytesIO(), 3)
