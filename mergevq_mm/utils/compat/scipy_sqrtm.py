"""scipy's matrix root, as mmagic's FID calls it."""

from __future__ import annotations

import inspect
import sys
from types import SimpleNamespace
from typing import Any


def keep_disp_of_sqrtm() -> bool:
    """Let ``mmagic.evaluation.metrics.fid`` call ``sqrtm(matrix, disp=False)``.

    scipy 1.18 dropped that argument, and the estimated error that came with it, which
    mmagic throws away.

    Returns:
        bool: Whether it was gone.
    """
    from scipy.linalg import sqrtm

    if 'disp' in inspect.signature(sqrtm).parameters:
        return False

    def with_disp(matrix: Any, disp: bool = True) -> Any:
        root = sqrtm(matrix)
        return root if disp else (root, None)

    fid = sys.modules['mmagic.evaluation.metrics.fid']
    fid.linalg = SimpleNamespace(sqrtm=with_disp)
    return True
