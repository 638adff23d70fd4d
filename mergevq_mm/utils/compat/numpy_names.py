"""Names that numpy 2 dropped and mmagic still uses."""

from __future__ import annotations


def restore_numpy_bool8() -> bool:
    """Bring ``numpy.bool8`` back where it is gone.

    Returns:
        bool: Whether it was missing.
    """
    import numpy as np

    if int(np.__version__.split('.')[0]) < 2 or 'bool8' in vars(np):
        return False
    np.bool8 = np.bool_
    return True
