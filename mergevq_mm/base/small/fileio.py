"""Files of the local disk."""

from __future__ import annotations

import os
from pathlib import Path

from ..tier import needs_training


def get(filepath: str | os.PathLike, backend_args: dict | None = None) -> bytes:
    """The content of a file.

    Args:
        filepath (str | PathLike): Its path.
        backend_args (dict, optional): Of mmengine's file backends. Defaults to None.

    Returns:
        bytes: All of it.

    Raises:
        MissingExtra: If another backend is asked for.
        OSError: If it cannot be read.
    """
    if backend_args:
        raise needs_training(f'backend_args={backend_args}')
    return Path(filepath).read_bytes()
