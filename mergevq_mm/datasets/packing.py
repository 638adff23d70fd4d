"""Writing packed data sets; see :mod:`.packed_backends` for their layout."""

from __future__ import annotations

import io
import json
import os
import shutil
import tarfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from mergevq_mm.utils.fileio import write_atomically

from .packed_backends import INDEX, SUFFIXES

PAGE = 4096  # bytes; LMDB puts an image onto pages of its own


class PackedImage(NamedTuple):
    """One image to pack.

    Attributes:
        name (str): ``<class>/<image>``.
        label (int): Class id.
        path (Path): The file.
    """

    name: str
    label: int
    path: Path


def list_images(folder: str | os.PathLike, extensions: Sequence[str]) -> list:
    """Images of class folders, with ids in the order of the folders' names.

    Args:
        folder (str | PathLike): Holds a folder for each class.
        extensions (Sequence[str]): Endings in lower case.

    Returns:
        list[PackedImage]: Sorted by name.

    Raises:
        FileNotFoundError: If there is no folder or no image.
    """
    folder = Path(folder)
    classes = (
        sorted(p for p in folder.iterdir() if p.is_dir()) if folder.is_dir() else []
    )
    found = [
        PackedImage(path.relative_to(folder).as_posix(), label, path)
        for label, where in enumerate(classes)
        for path in sorted(where.rglob('*'))
        if path.suffix.lower() in extensions
    ]
    if not found:
        raise FileNotFoundError(
            f'"{folder}" holds no class folder with images; give the folder above the '
            'classes, such as data/imagenet/train.'
        )
    return found


def pack(
    images: Sequence[PackedImage],
    out_dir: str | os.PathLike,
    split: str,
    kind: str,
    shard_bytes: int = 2**30,
    progress: Callable[[int], None] | None = None,
) -> Path:
    """Write images and their list.

    The files have their names only when they are complete.

    Args:
        images (Sequence[PackedImage]): What to pack.
        out_dir (str | PathLike): Data root to write into.
        split (str): Such as 'train'.
        kind (str): 'lmdb' or 'tar'.
        shard_bytes (int): A new tar file begins after so many bytes. Defaults to 2^30.
        progress (Callable, optional): Called with the number of images that are done.
            Defaults to None.

    Returns:
        Path: The data base or the folder of the shards.

    Raises:
        ValueError: If ``kind`` is not known or something is there already.
    """
    if kind not in SUFFIXES:
        raise ValueError(f"kind={kind!r} is not known; choose 'lmdb' or 'tar'.")
    out_dir = Path(out_dir)
    target = out_dir / (split + SUFFIXES[kind])
    if target.exists():
        raise ValueError(f'"{target}" exists; remove it or choose another folder.')
    partial = target.with_name(f'.{target.name}.partial')
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    counted = _counted(images, progress)
    if kind == 'lmdb':
        _write_lmdb(counted, partial, _map_size(images))
    else:
        _write_shards(counted, partial, shard_bytes)
        index_shards(partial)
    write_list([(image.name, image.label) for image in images], out_dir, split)
    os.replace(partial, target)
    return target


def write_list(
    images: Sequence[tuple[str, int]], out_dir: str | os.PathLike, split: str
) -> None:
    """Write ``meta/<split>.txt``: a name and a class id a line."""
    text = ''.join(f'{name} {label}\n' for name, label in images)
    write_atomically(text.encode(), Path(out_dir, 'meta', f'{split}.txt'))


def index_shards(folder: str | os.PathLike) -> list[tuple[str, int]]:
    """Write ``index.json`` of a folder of tar files, ours or WebDataset's.

    Args:
        folder (str | PathLike): With ``*.tar``.

    Returns:
        list[tuple[str, int]]: Name and class id of each image that has a ``.cls``.

    Raises:
        FileNotFoundError: If there is no shard.
        ValueError: If two shards have a member of the same name.
    """
    shards = sorted(path.name for path in Path(folder).glob('*.tar'))
    if not shards:
        raise FileNotFoundError(f'"{folder}" has no *.tar; give a folder of shards.')
    members: dict[str, list[int]] = {}
    labels: dict[str, int] = {}
    for number, shard in enumerate(shards):
        with tarfile.open(Path(folder, shard)) as file:
            for member in file:
                if not member.isfile():
                    continue
                if member.name.endswith('.cls'):
                    labels[member.name[:-4]] = int(file.extractfile(member).read())
                    continue
                if member.name in members:
                    raise ValueError(
                        f'"{folder}" has {member.name!r} twice; give each image a name '
                        'of its own.'
                    )
                members[member.name] = [number, member.offset_data, member.size]
    content = {'shards': shards, 'members': members}
    write_atomically(json.dumps(content).encode(), Path(folder, INDEX))
    return [
        (name, labels[stem])
        for name in members
        if (stem := name.rpartition('.')[0]) in labels
    ]


def _counted(
    images: Sequence[PackedImage], progress: Callable[[int], None] | None
) -> Iterator[tuple[PackedImage, bytes]]:
    for number, image in enumerate(images, 1):
        yield image, image.path.read_bytes()
        if progress is not None:
            progress(number)


def _map_size(images: Sequence[PackedImage]) -> int:
    """Bytes that a data base may take: whole pages, twice, for its tree."""
    pages = sum(image.path.stat().st_size // PAGE + 2 for image in images)
    return 2 * PAGE * pages + 2**24


def _write_lmdb(
    images: Iterable[tuple[PackedImage, bytes]], folder: Path, map_size: int
) -> None:
    try:
        import lmdb
    except ImportError as error:
        raise ValueError(
            'An LMDB needs the package lmdb: pip install lmdb, or write --format tar.'
        ) from error
    with lmdb.open(str(folder), map_size=map_size, sync=False) as data_base:
        with data_base.begin(write=True) as transaction:
            for image, content in images:
                transaction.put(image.name.encode(), content)
        data_base.sync(True)


def _write_shards(
    images: Iterable[tuple[PackedImage, bytes]], folder: Path, shard_bytes: int
) -> None:
    shard: tarfile.TarFile | None = None
    number = 0
    for image, content in images:
        if shard is None or shard.offset > shard_bytes:
            if shard is not None:
                shard.close()
            shard = tarfile.open(folder / f'{number:06d}.tar', 'w')
            number += 1
        stem = image.name.rpartition('.')[0]
        for name, data in (
            (image.name, content),
            (f'{stem}.cls', str(image.label).encode()),
        ):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            shard.addfile(member, io.BytesIO(data))
    if shard is not None:
        shard.close()
