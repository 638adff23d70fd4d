"""Codes of a data set on the disk: sharded, memory-mapped, whole or refused.

::

    root/codes.json                 what the codes are, and which files there must be
    root/shard_00000/labels.npy         N        int64   classes
                     index_K144.npy     N×F×144  int32   codes of the groups
                     group_K144.npy     N×F×L    uint16  group of each raster position
                     …                                   two files for each K
    root/shard_00001/…

Axis F holds the image as it is and, where there is one, its mirror image. Groups are
numbered by their first raster position. A shard is written as ``shard_00000.tmp`` and
renamed when it is on the disk, so a folder of the right name is complete.

Within a budget each image has one K of its own, and its mirror image the same. Then a
shard holds, in the place of the two files for each K::

    keep.npy    N        int32   K
    index.npy   N×F×max  int32   codes of the groups; behind the K-th zeros
    group.npy   N×F×L    uint16  group of each raster position
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

VERSION, RAGGED = 1, 2  # one K of the folder, one of each image
HEADER = 'codes.json'


@dataclass(frozen=True)
class CodesHeader:
    """What the codes in a folder are.

    Attributes:
        version (int): Of the format.
        fingerprint (str): Of the tokenizer.
        bits (int): Width of a code.
        split (tuple[int, ...]): Bits of its parts, the lowest first.
        grid (tuple[int, int]): Rows and columns of the raster.
        keeps (tuple[int, ...]): Numbers of groups, ascending; within a budget those
            that an image may have.
        flips (int): 1, or 2 with mirror images.
        samples (int): Number of images.
        classes (tuple[str, ...]): Names of the classes.
        source (str): Digest of the data set: its files, labels and pipeline.
        shards (tuple[dict, ...]): For each one ``name``, ``samples`` and ``files``,
            the length of each file in bytes.
        budget (str): What gave each image its K; '' where all have been encoded at
            each K. Defaults to ''.
        batch_size (int): Images that a mean of the budget was spent on together; 0
            where there is none, or it is not known. Defaults to 0.
    """

    version: int
    fingerprint: str
    bits: int
    split: tuple[int, ...]
    grid: tuple[int, int]
    keeps: tuple[int, ...]
    flips: int
    samples: int
    classes: tuple[str, ...]
    source: str
    shards: tuple[dict[str, Any], ...]
    budget: str = ''
    batch_size: int = 0

    @property
    def length(self) -> int:
        """int: Positions of the raster, L."""
        return self.grid[0] * self.grid[1]

    def arrays(self, samples: int) -> dict[str, tuple[tuple[int, ...], str]]:
        """Shape and type of each array of a shard of so many samples."""
        arrays: dict[str, tuple[tuple[int, ...], str]] = {
            'labels': ((samples,), 'int64')
        }
        if self.budget:
            arrays['keep'] = ((samples,), 'int32')
            arrays['index'] = ((samples, self.flips, max(self.keeps)), 'int32')
            arrays['group'] = ((samples, self.flips, self.length), 'uint16')
            return arrays
        for keep in self.keeps:
            arrays[f'index_K{keep}'] = ((samples, self.flips, keep), 'int32')
            arrays[f'group_K{keep}'] = ((samples, self.flips, self.length), 'uint16')
        return arrays


def plan_codes(samples: int, shard_size: int, **values: Any) -> CodesHeader:
    """Divide a data set into shards.

    Args:
        samples (int): Number of images.
        shard_size (int): Images of a shard; the last one may have fewer.
        **values (Any): The other attributes of :class:`CodesHeader`.

    Returns:
        CodesHeader: With the list of shards.

    Raises:
        ValueError: If there is nothing to write, a number of groups stands twice, or
            the raster is too large for the types of the files.
    """
    if samples < 1 or shard_size < 1:
        raise ValueError(
            f'samples={samples} and shard_size={shard_size} must be at least 1; give '
            'a data set with images, and shards of some thousands of them.'
        )
    version = RAGGED if values.get('budget') else VERSION
    header = CodesHeader(version, samples=samples, shards=(), **values)
    if len(set(header.keeps)) != len(header.keeps) or header.length > 2**16:
        raise ValueError(
            f'keeps={list(header.keeps)} of {header.length} positions cannot be '
            'stored; give each K once, and at most 65536 positions.'
        )
    shards = []
    for number, first in enumerate(range(0, samples, shard_size)):
        count = min(shard_size, samples - first)
        files = {
            f'{name}.npy': _file_size(shape, dtype)
            for name, (shape, dtype) in header.arrays(count).items()
        }
        name = f'shard_{number:05d}'
        shards.append({'name': name, 'samples': count, 'files': files})
    return replace(header, shards=tuple(shards))


def _file_size(shape: tuple[int, ...], dtype: str) -> int:
    """Bytes of a ``.npy`` file: its header and its numbers."""
    about = {'descr': np.dtype(dtype).str, 'fortran_order': False, 'shape': shape}
    start = BytesIO()
    np.lib.format.write_array_header_1_0(start, about)
    return len(start.getvalue()) + int(np.prod(shape)) * np.dtype(dtype).itemsize


def read_header(root: str | os.PathLike) -> CodesHeader:
    """Read what the codes in a folder are.

    Args:
        root (str | PathLike): The folder.

    Returns:
        CodesHeader: The content of ``codes.json``.

    Raises:
        ValueError: If there is none, it is damaged, or of another version.
    """
    remedy = 'give a folder that tools/extract_codes.py has written.'
    try:
        content = json.loads(Path(root, HEADER).read_bytes())
        version = content['version']
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise ValueError(
            f'root="{root}" holds no readable {HEADER} ({type(error).__name__}); '
            f'{remedy}'
        ) from error
    if version not in (VERSION, RAGGED):
        later = isinstance(version, int) and version > RAGGED
        how = 'install the mergevq_mm that wrote them' if later else 'extract them anew'
        raise ValueError(
            f'root="{root}" holds codes of format {version}, and this is format '
            f'{RAGGED}; {how}.'
        )
    try:
        lists = ('split', 'grid', 'keeps', 'classes', 'shards')
        header = CodesHeader(
            **{k: tuple(v) if k in lists else v for k, v in content.items()}
        )
        wrong = _wrong_field(header)
        total = sum(shard['samples'] for shard in header.shards)
    except (TypeError, KeyError, IndexError, AttributeError) as error:
        raise ValueError(f'root="{root}" has a damaged {HEADER}; {remedy}') from error
    if wrong:
        raise ValueError(
            f'root="{root}" has a damaged {HEADER}: {wrong}='
            f'{getattr(header, wrong)!r:.80} is none; {remedy}'
        )
    if total != header.samples:
        raise ValueError(
            f'root="{root}" has a damaged {HEADER}: its shards hold {total} samples, '
            f'not {header.samples}; {remedy}'
        )
    return header


def _wrong_field(header: CodesHeader) -> str | None:
    """Name of the first attribute that is of another type or size than it must be."""

    def whole(value: Any, low: int, high: int) -> bool:
        return type(value) is int and low <= value <= high

    length = header.length if all(whole(n, 1, 2**16) for n in header.grid) else 0
    files = {f'{name}.npy' for name in header.arrays(1)}
    right = {
        'budget': type(header.budget) is str
        and bool(header.budget) == (header.version == RAGGED),
        'batch_size': whole(header.batch_size, 0, 2**40),
        'fingerprint': type(header.fingerprint) is str,
        'bits': whole(header.bits, 1, 31),
        'split': all(whole(n, 1, 31) for n in header.split)
        and sum(header.split) == header.bits,
        'grid': len(header.grid) == 2 and 0 < length <= 2**16,
        'keeps': len(header.keeps) > 0
        and all(whole(keep, 1, length) for keep in header.keeps),
        'flips': whole(header.flips, 1, 2),
        'samples': whole(header.samples, 1, 2**40),
        'classes': all(type(name) is str for name in header.classes),
        'source': type(header.source) is str,
        'shards': all(
            re.fullmatch(r'shard_\d{5,}', shard['name'])
            and whole(shard['samples'], 1, header.samples)
            and shard['files'].keys() == files
            and all(whole(size, 1, 2**62) for size in shard['files'].values())
            for shard in header.shards
        ),
    }
    return next((name for name, holds in right.items() if not holds), None)


def check_shard(root: str | os.PathLike, shard: dict[str, Any]) -> None:
    """Refuse a shard that is not there as a whole, without reading it.

    Args:
        root (str | PathLike): The folder of all shards.
        shard (dict): Its entry in the header.

    Raises:
        ValueError: If it, or one of its files, is missing or of another length.
    """
    folder = Path(root, shard['name'])
    remedy = (
        'run tools/extract_codes.py with the same arguments again, which redoes what '
        'is missing.'
    )
    if not folder.is_dir():
        begun = folder.with_name(folder.name + '.tmp').exists()
        problem = 'is only half written' if begun else 'is missing'
        raise ValueError(f'root="{root}": {shard["name"]} {problem}; {remedy}')
    for name, expected in shard['files'].items():
        path = folder / name
        found = path.stat().st_size if path.is_file() else 0
        if found != expected:
            raise ValueError(
                f'root="{root}": {shard["name"]}/{name} has {found} bytes, not '
                f'{expected}; {remedy}'
            )


def is_complete(root: str | os.PathLike, shard: dict[str, Any]) -> bool:
    """Whether a shard is there as a whole, see :func:`check_shard`."""
    try:
        check_shard(root, shard)
    except ValueError:
        return False
    return True


def open_array(
    root: str | os.PathLike, header: CodesHeader, number: int, name: str
) -> np.ndarray:
    """Map an array of a shard into memory.

    Args:
        root (str | PathLike): The folder of all shards.
        header (CodesHeader): Its header.
        number (int): Which shard.
        name (str): Which array, such as 'index_K144'.

    Returns:
        np.ndarray: Memory-mapped and read-only.

    Raises:
        ValueError: If the file holds something else.
    """
    shard = header.shards[number]
    path = Path(root, shard['name'], f'{name}.npy')
    expected = header.arrays(shard['samples'])[name]
    try:
        array = np.load(path, mmap_mode='r', allow_pickle=False)
        found = (array.shape, array.dtype.name)
    except Exception as error:  # numpy has many for a damaged header
        found, problem = None, error
    else:
        problem = None
    if found != expected:
        raise ValueError(
            f'root="{root}": {shard["name"]}/{name}.npy holds {found or "no array"}, '
            f'not {expected}; delete that shard and run tools/extract_codes.py again.'
        ) from problem
    return array
