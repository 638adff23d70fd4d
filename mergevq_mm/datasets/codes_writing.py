"""Writing of codes in the format of :mod:`.codes`: rows, and whole shards or none."""

from __future__ import annotations

import errno
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from mergevq_mm.utils.fileio import write_atomically

from .codes import HEADER, CodesHeader, is_complete, read_header

if TYPE_CHECKING:
    from mergevq_mm.models.generators.tokenizer import FrozenTokenizer
    from mergevq_mm.models.utils.budget import Budget


def start_codes(root: str | os.PathLike, header: CodesHeader) -> None:
    """Begin a folder of codes, or continue one that was begun with the same header.

    Several processes may do so at a time.

    Args:
        root (str | PathLike): The folder; made if need be.
        header (CodesHeader): What will be in it.

    Raises:
        ValueError: If the folder holds something else or other codes.
    """
    root = Path(root)
    root.mkdir(parents=True, exist_ok=True)
    if not (root / HEADER).exists():
        foreign = [p.name for p in root.iterdir() if not p.name.startswith(HEADER)]
        if foreign:
            raise ValueError(
                f'out="{root}" holds other files ({sorted(foreign)[0]}) and no '
                f'{HEADER}; give a new or empty folder.'
            )
        # Without a budget as it was before there were any, for those who read it.
        later = ('budget', 'batch_size')
        about = {k: v for k, v in asdict(header).items() if k not in later or v}
        content = json.dumps(about, indent=1).encode()
        own = root / f'{HEADER}.{uuid.uuid4().hex}'  # another process may write, too
        write_atomically(content, own)
        os.replace(own, root / HEADER)
    before = read_header(root)
    for field in fields(header):
        old, value = getattr(before, field.name), getattr(header, field.name)
        unknown = field.name == 'batch_size' and not old  # of before it was noted
        if old != value and not unknown:
            raise ValueError(
                f'out="{root}" was begun with {field.name}={_short(old)}, not '
                f'{_short(value)}; give another folder, or the same arguments.'
            )


def _short(value: Any, width: int = 60) -> str:
    if isinstance(value, tuple):  # of the shards their sizes say enough
        value = [v['samples'] if isinstance(v, dict) else v for v in value]
    text = repr(value)
    return text if len(text) <= width else text[:width] + '…'


@contextmanager
def write_shard(
    root: str | os.PathLike, header: CodesHeader, number: int
) -> Iterator[dict[str, np.ndarray]]:
    """Write a shard: fill the arrays in the block; it counts if the block succeeds.

    Args:
        root (str | PathLike): The folder, see :func:`start_codes`.
        header (CodesHeader): Its header.
        number (int): Which shard.

    Yields:
        dict[str, np.ndarray]: Arrays to fill, memory-mapped, by name.

    Raises:
        OSError: If the disk has no room for it.
    """
    shard = header.shards[number]
    final = Path(root, shard['name'])
    part = final.with_name(final.name + '.tmp')
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    arrays = {}
    for name, (shape, dtype) in header.arrays(shard['samples']).items():
        path = part / f'{name}.npy'
        arrays[name] = np.lib.format.open_memmap(path, 'w+', dtype, shape)
        _reserve(path)
    yield arrays
    for array in arrays.values():
        array.flush()
    shutil.rmtree(final, ignore_errors=True)  # a damaged one
    os.replace(part, final)


def _reserve(path: Path) -> None:
    """Ask for the room of a file: on a full disk, writing to memory would crash."""
    if not hasattr(os, 'posix_fallocate'):
        return
    with open(path, 'r+b') as file:
        try:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise OSError(
                    error.errno,
                    f'no room for "{path}"; free some, or choose another folder '
                    '(complete shards are kept)',
                ) from error


def missing_shards(
    root: str | os.PathLike, header: CodesHeader, rank: int = 0, world_size: int = 1
) -> list[int]:
    """Numbers of the shards that one of several processes has to write."""
    mine = range(rank, len(header.shards), world_size)
    return [i for i in mine if not is_complete(root, header.shards[i])]


def code_rows(
    tokenizer: FrozenTokenizer,
    images: Tensor,
    header: CodesHeader,
    budget: Budget | None = None,
) -> dict[str, np.ndarray]:
    """Rows of the arrays of a shard, but for the classes.

    Args:
        tokenizer (FrozenTokenizer): On the device of the images.
        images (Tensor): B×3×H×W in [-1, 1].
        header (CodesHeader): What to write.
        budget (Budget, optional): That gives each image its K, and its mirror image the
            same. Defaults to None, all are encoded at each K.

    Returns:
        dict[str, np.ndarray]: By name, B rows each.
    """
    both = torch.cat([images, images.flip(-1)]) if header.flips == 2 else images

    def row(values: Tensor) -> np.ndarray:
        """(F·B)×… to B×F×…."""
        return values.unflatten(0, (header.flips, -1)).transpose(0, 1).cpu().numpy()

    if budget is None:
        found = tokenizer.encode_each(both, header.keeps)
        return {
            f'{name}_K{keep}': row(values)
            for keep, (index, group, _) in zip(header.keeps, found, strict=True)
            for name, values in (('index', index), ('group', group))
        }
    most = max(header.keeps)
    own = tokenizer.encode(both, budget, views=header.flips)
    index = own.map(lambda one: F.pad(one.index, (0, most - one.index.shape[1])))
    return {
        'keep': np.asarray(own.keeps[: len(images)]),
        'index': row(index.join()),
        'group': row(own.map(lambda one: one.group).join()),
    }
