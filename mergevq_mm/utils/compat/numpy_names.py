"""Names that numpy 2 dropped and OpenMMLab still uses."""

from __future__ import annotations

# Dropped by numpy 2.0 (mmagic) and 2.4 (mmpretrain's metrics of retrieval).
_TODAY = {'bool8': 'bool_', 'in1d': 'isin'}


def restore_numpy_names() -> list[str]:
    """Bring the names back that are gone.

    Returns:
        list[str]: Those that were missing.
    """
    import numpy as np

    if int(np.__version__.split('.')[0]) < 2:
        return []  # 'bool8' is there, and warns when it is looked for
    gone = [name for name in _TODAY if name not in vars(np)]
    for name in gone:
        setattr(np, name, getattr(np, _TODAY[name]))
    return gone
