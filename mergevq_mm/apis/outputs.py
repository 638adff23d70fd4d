"""Results on the disk: none of them replaces what is not a result."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np

from ..utils.fileio import write_atomically


def write_outputs(
    folder: str | os.PathLike,
    outputs: Mapping[str, np.ndarray | bytes],
    task: str,
    inputs: Collection[str] = (),
) -> list[str]:
    """Write pictures and other files.

    A picture that is there already is replaced where the same command wrote it, so that
    a command can be repeated. An original never is.

    Args:
        folder (str | PathLike): Where to; made if it is not there.
        outputs (Mapping[str, np.ndarray | bytes]): Names to pictures H×W×3 uint8, which
            become PNG, or contents.
        task (str): Name of the command, noted in the pictures.
        inputs (Collection[str]): Real paths of files that are read, and so are not to
            be replaced. Defaults to ().

    Returns:
        list[str]: Paths of the files.

    Raises:
        ValueError: If a file of that name is an input, or a picture of somebody else;
            nothing of ``outputs`` is written then.
    """
    from mergevq_mm.visualization.grids import png_author, save_png

    author = f'mergevq_mm {task}'
    paths = {name: Path(folder, name) for name in outputs}
    for name, path in paths.items():
        foreign = isinstance(outputs[name], np.ndarray) and png_author(path) != author
        if os.path.lexists(path) and (foreign or os.path.realpath(path) in inputs):
            raise ValueError(
                f'"{path}" is there already and is no earlier result of {task}, so it '
                'is not replaced; write to another folder.'
            )
    for name, path in paths.items():
        if isinstance(outputs[name], np.ndarray):
            save_png(path, outputs[name], author)
        else:
            write_atomically(outputs[name], path)
    return [str(path) for path in paths.values()]
