"""Files that hold the features of a data set."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from mergevq_mm.utils.fileio import write_atomically


def write_features(
    file: str | os.PathLike,
    rows: Mapping[str, np.ndarray],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write what :func:`collect_features` returns.

    A ``.safetensors`` file keeps paths and metadata as JSON in its header; an ``.npz``
    file keeps them as arrays of text. Neither needs pickle to be read.

    Args:
        file (str | PathLike): ``.safetensors`` or ``.npz``; written whole or not at
            all.
        rows (Mapping[str, np.ndarray]): Arrays by name.
        metadata (Mapping[str, str], optional): What to note. Defaults to None.

    Raises:
        ValueError: If the file has another ending.
    """
    path = check_ending(file)
    metadata = dict(metadata or {})
    if path.suffix == '.npz':
        buffer = io.BytesIO()
        np.savez(buffer, metadata=np.array(json.dumps(metadata)), **rows)
        content = buffer.getvalue()
    else:
        from safetensors.numpy import save

        arrays = {
            name: np.ascontiguousarray(value)
            for name, value in rows.items()
            if name != 'path'
        }
        metadata['path'] = json.dumps([str(item) for item in rows.get('path', ())])
        content = save(arrays, metadata)
    write_atomically(content, path)


def read_features(
    file: str | os.PathLike,
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Read a file of :func:`write_features`.

    Args:
        file (str | PathLike): ``.safetensors`` or ``.npz``.

    Returns:
        tuple[dict, dict]: Arrays by name, and the metadata.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file has another ending or no labels.
    """
    path = check_ending(file)
    if not path.is_file():
        raise FileNotFoundError(
            f'feature file "{path}" does not exist; write it with '
            'tools/extract_features.py.'
        )
    if path.suffix == '.npz':
        with np.load(path, allow_pickle=False) as content:
            rows = {name: content[name] for name in content.files}
        metadata = json.loads(str(rows.pop('metadata', '{}')))
    else:
        from safetensors import safe_open

        with safe_open(path, 'numpy') as content:
            metadata = dict(content.metadata() or {})
            rows = {name: content.get_tensor(name) for name in content.keys()}
        rows['path'] = np.array(json.loads(metadata.pop('path', '[]')))
    if 'label' not in rows:
        raise ValueError(
            f'"{path}" holds {sorted(rows)} but no "label"; give a file of '
            'tools/extract_features.py.'
        )
    return rows, metadata


def check_ending(file: str | os.PathLike) -> Path:
    """A path that ends in ``.npz`` or ``.safetensors``.

    Args:
        file (str | PathLike): The path.

    Returns:
        Path: The same.

    Raises:
        ValueError: If it ends in something else.
    """
    path = Path(file)
    if path.suffix not in ('.npz', '.safetensors'):
        raise ValueError(
            f'feature file "{path}" must end in .npz or .safetensors; rename it.'
        )
    return path
