"""mmcv's turn of the hue, whose negative factors numpy 2 refuses."""

from __future__ import annotations

import functools
import math
import sys


class ByteFactor(float):
    """A factor whose multiples wrap around in a byte, as numpy 1 let them."""

    def __mul__(self, other: float) -> int:
        """Return the product without its fraction, in 0..255."""
        return math.trunc(float(self) * other) % 256


def wrap_negative_hue() -> bool:
    """Let ``mmcv.adjust_hue`` turn backwards.

    It adds ``numpy.uint8(hue_factor * 255)``, which raises in numpy 2 for every second
    factor that ``ColorJitter`` of mmpretrain draws.

    Returns:
        bool: Whether it raised.
    """
    import numpy as np

    turn = sys.modules['mmcv.image.photometric'].adjust_hue
    try:
        turn(np.zeros((1, 1, 3), np.uint8), -0.5)
    except OverflowError:
        pass
    else:
        return False

    @functools.wraps(turn)
    def adjust_hue(
        img: np.ndarray, hue_factor: float, backend: str | None = None
    ) -> np.ndarray:
        turned: np.ndarray = turn(img, ByteFactor(hue_factor), backend)
        return turned

    for name in ('mmcv.image.photometric', 'mmcv.image', 'mmcv'):
        module = sys.modules.get(name)
        if getattr(module, 'adjust_hue', None) is turn:
            vars(module)['adjust_hue'] = adjust_hue
    return True
