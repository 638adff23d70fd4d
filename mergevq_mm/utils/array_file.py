"""Files of arrays, ``.npz`` and ``.safetensors``: read whole, or refused by name.

What a file announces is compared with its size before anything is read: a few bytes of
a header can ask for any shape, and three megabytes unpack to three gigabytes.
"""

from __future__ import annotations

import math
import os
import zipfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

ENDINGS = ('.npz', '.safetensors')
# Times that compressed arrays may be larger than their file, and bytes that any may be.
_RATIO, _ROOM = 32, 64 * 2**20


def read_arrays(
    path: str | os.PathLike, names: Collection[str] | None = None
) -> tuple[dict[str, np.ndarray], dict]:
    """Read a file of arrays, without unpickling anything.

    Args:
        path (str | PathLike): The file; what does not end in ``.safetensors`` is an
            archive of numpy. Types that numpy lacks (bfloat16, float8) come as float32.
        names (Collection[str], optional): Of the arrays to read; others may be there.
            Defaults to None, all.

    Returns:
        tuple[dict, dict]: Arrays by name, and the metadata, texts by name; those of an
        ``.npz`` are empty.

    Raises:
        OSError: If it is not there, or may not be read.
        ValueError: If it is damaged, or asks for more memory than such a file can hold.
    """
    path = Path(path)
    try:
        if path.suffix == '.safetensors':
            return _read_safetensors(path, names)
        return _read_npz(path, names), {}
    except (FileNotFoundError, PermissionError, IsADirectoryError):
        raise
    except Exception as error:
        reason = ' '.join(str(error).split()) or type(error).__name__
        raise ValueError(
            f'"{path}" ({path.stat().st_size} bytes) is damaged: {reason}; write it '
            'again.'
        ) from error


def text_array(texts: Any, path: Path) -> np.ndarray:
    """An array of texts, each of which takes as much room as the longest one.

    Args:
        texts (Any): A list of texts, as the file has it.
        path (Path): The file.

    Returns:
        np.ndarray: One axis.

    Raises:
        ValueError: If it is none, or they need more memory than such a file can hold.
    """
    whole = isinstance(texts, list) and all(isinstance(text, str) for text in texts)
    if not whole or 4 * len(texts) * max(map(len, texts), default=0) > _limit(path):
        raise ValueError(
            f'"{path}" is damaged: its paths are no list of texts of a usual length; '
            'write it again.'
        )
    return np.array(texts, dtype=str)


def _limit(path: Path) -> int:
    """Bytes of memory that the content of a file may need."""
    return _RATIO * path.stat().st_size + _ROOM


def _read_npz(path: Path, names: Collection[str] | None) -> dict[str, np.ndarray]:
    """Read an archive of numpy whose parts are as long as their headers say."""
    with zipfile.ZipFile(path) as archive:
        entries = [e for e in archive.infolist() if _wanted(e.filename, names)]
        total = sum(entry.file_size for entry in entries)
        if total > _limit(path):
            raise ValueError(f'it unpacks to {total:,} bytes')
        for entry in entries:
            with archive.open(entry) as file:
                size = _announced(file)
            if size > entry.file_size:
                raise ValueError(
                    f'{entry.filename} of {entry.file_size:,} bytes announces {size:,}'
                )
    with np.load(path, allow_pickle=False) as content:
        return {n: content[n] for n in content.files if _wanted(n, names)}


def _wanted(entry: str, names: Collection[str] | None) -> bool:
    return names is None or entry.removesuffix('.npy') in names


def _announced(file: IO[bytes]) -> int:
    """Bytes of an array, by the header at its beginning."""
    version = np.lib.format.read_magic(file)
    read = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }.get(version)
    if read is None:
        raise ValueError(f'format {version} of numpy is not known')
    shape, _, dtype = read(file)
    if dtype.hasobject or dtype.itemsize == 0:
        raise ValueError(f'its type {dtype} is no number and no text')
    return math.prod(shape) * dtype.itemsize


def _read_safetensors(
    path: Path, names: Collection[str] | None
) -> tuple[dict[str, np.ndarray], dict]:
    """Read a safetensors file, whose library compares header and size."""
    import torch
    from safetensors import safe_open

    arrays = {}
    with safe_open(path, 'pt') as file:
        metadata = dict(file.metadata() or {})
        for name in filter(lambda name: _wanted(name, names), file.keys()):
            tensor = file.get_tensor(name)
            try:
                arrays[name] = tensor.numpy()
            except TypeError:
                arrays[name] = tensor.to(torch.float32).numpy()
    return arrays, metadata


def check_rows(rows: Mapping[str, np.ndarray], number: int, path: Path) -> None:
    """Refuse arrays that do not have a row for each image.

    Args:
        rows (Mapping[str, np.ndarray]): Arrays by name.
        number (int): Of images.
        path (Path): The file, for the error.

    Raises:
        ValueError: If one has another number of rows.
    """
    for name, value in rows.items():
        found = value.shape[0] if value.ndim else None
        if found != number:
            raise ValueError(
                f'"{path}" has {found} rows of {name!r} for {number} images; write it '
                'again.'
            )
