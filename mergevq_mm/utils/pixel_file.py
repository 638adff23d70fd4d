"""Pixels of many images in one file, which threads and processes write together."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import IO

import numpy as np


class PixelFile:
    """Pixels of all images one after the other, written in any order.

    All processes write to the same file, so that no image is decoded again.

    Args:
        path (Path): Where to.

    Attributes:
        shape (tuple[int, ...]): H×W×3 of an image, once one was written.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.shape = path, ()

    def write(self, number: int, image: np.ndarray) -> None:
        """Write an image H×W×3 uint8 to its place; threads may do so at once."""
        self.shape = image.shape
        self.path.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(self.path, os.O_CREAT | os.O_WRONLY, 0o666)
        try:
            os.pwrite(file, image.tobytes(), number * image.size)
        finally:
            os.close(file)

    def copy_to(self, file: IO[bytes], number: int) -> None:
        """Append the pixels of the first images to a file."""
        left = number * math.prod(self.shape)
        with self.path.open('rb') as source:
            while left:
                part = source.read(min(left, 2**24))
                if not part:
                    raise ValueError(
                        f'{self.path} lacks {left} bytes of pixels; let all processes '
                        'write to one folder that they share.'
                    )
                file.write(part)
                left -= len(part)
