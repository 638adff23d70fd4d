"""Results on the disk: none of them replaces what is not a result."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..utils.fileio import write_atomically


def write_outputs(
    folder: str | os.PathLike[str],
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
        ValueError: If ``folder`` is a file, or a file of that name is an input, or a
            picture of somebody else; nothing of ``outputs`` is written then.
    """
    from mergevq_mm.visualization.grids import png_author, save_png

    if os.path.exists(folder) and not os.path.isdir(folder):
        raise ValueError(f'"{folder}" is a file; give a folder to write to.')
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
        made = outputs[name]
        if isinstance(made, np.ndarray):
            save_png(path, made, author)
        else:
            write_atomically(made, path)
    return [str(path) for path in paths.values()]


def real_paths(listed: Sequence[Any]) -> set[str]:
    """Where the files among inputs really lie.

    Args:
        listed (Sequence[Any]): Of ``list_inputs``, or something without files.

    Returns:
        set[str]: Real paths.
    """
    items = (one[1] for one in listed if isinstance(one, tuple))
    return {os.path.realpath(item) for item in items if isinstance(item, str)}


def check_apart(inputs: Any, out_dir: str | os.PathLike[str] | None) -> None:
    """Refuse to write pictures into a folder that pictures are read from.

    Args:
        inputs (Any): What somebody gives; folders among it are looked at.
        out_dir (str | PathLike, optional): Where results go.

    Raises:
        ValueError: If it is such a folder; the next time they would be inputs.
    """
    if out_dir is None:
        return
    for item in inputs if isinstance(inputs, (list, tuple)) else [inputs]:
        path = os.fspath(item) if isinstance(item, (str, os.PathLike)) else ''
        if path and os.path.realpath(path) == os.path.realpath(out_dir):
            raise ValueError(
                f'out_dir="{out_dir}" is a folder of inputs, which would hold results '
                f'next time; write to another one, such as "{Path(path, "pictures")}".'
            )
