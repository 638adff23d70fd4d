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
from mergevq_mm.utils.images import image_endings, is_hidden

from .image_folder import ImageFolder
from .image_lists import write_labelled
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


def list_images(data_root: str | os.PathLike, split: str) -> list[PackedImage]:
    """The images of a split, as :class:`ImageFolder` lists and numbers them.

    Args:
        data_root (str | PathLike): Folder above the split.
        split (str): Folder of class folders, such as 'train'.

    Returns:
        list[PackedImage]: In the order of the data set.

    Raises:
        FileNotFoundError: If there is no such folder or no class folder in it.
        ValueError: As of :class:`ImageFolder`.
    """
    if not Path(data_root, split).is_dir():
        raise FileNotFoundError(
            f'"{Path(data_root, split)}" holds no class folder with images; give the '
            'folder above the split, such as data/imagenet, and --split.'
        )
    # mmpretrain takes 'test' for images without classes.
    which = {'split': split} if split in ('train', 'val') else {'data_prefix': split}
    data = ImageFolder(os.fspath(data_root), pipeline=[], **which)
    folder = data.img_prefix.rstrip('/') + '/'
    infos = map(data.get_data_info, range(len(data)))
    return [
        PackedImage(
            info['img_path'].removeprefix(folder),
            info['gt_label'],
            Path(info['img_path']),
        )
        for info in infos
    ]


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
    text = write_labelled(images)
    write_atomically(text.encode(), Path(out_dir, 'meta', f'{split}.txt'))


def index_shards(folder: str | os.PathLike) -> list[tuple[str, int]]:
    """Write ``index.json`` of a folder of tar files, ours or WebDataset's.

    Members that are neither images nor ``.cls``, and hidden ones, are left out.

    Args:
        folder (str | PathLike): With ``*.tar``.

    Returns:
        list[tuple[str, int]]: Name and class id of each image that has a ``.cls``.

    Raises:
        FileNotFoundError: If there is no shard, or no image with a class in them.
        ValueError: If two shards have an image of the same name, or a ``.cls`` holds
            no class id.
    """
    shards = sorted(p.name for p in Path(folder).glob('*.tar') if not is_hidden(p.name))
    if not shards:
        raise FileNotFoundError(f'"{folder}" has no *.tar; give a folder of shards.')
    members: dict[str, list[int]] = {}
    labels: dict[str, int] = {}
    for number, shard in enumerate(shards):
        for name, offset, size, content in _members(Path(folder, shard)):
            stem, ending = os.path.splitext(name)
            if ending.lower() == '.cls':
                labels[stem] = _class_id(content, f'"{shard}", {name!r}')
            elif name in members:
                raise ValueError(
                    f'"{folder}" has {name!r} twice; give each image a name of its own.'
                )
            else:
                members[name] = [number, offset, size]
    listed = [
        (name, labels[stem])
        for name in members
        if (stem := os.path.splitext(name)[0]) in labels
    ]
    if not listed:
        raise FileNotFoundError(
            f'"{folder}" has {len(members)} images, none of them with a class; each '
            'needs a member of its name that ends in .cls and holds the class id.'
        )
    content = {'shards': shards, 'members': members}
    write_atomically(json.dumps(content).encode(), Path(folder, INDEX))
    return listed


def _members(shard: Path) -> Iterator[tuple[str, int, int, bytes]]:
    """Name, place, size and (of ``.cls`` files) content of what counts in a shard."""
    try:
        with tarfile.open(shard) as file:
            for member in file:
                ending = os.path.splitext(member.name)[1].lower()
                if not member.isfile() or is_hidden(member.name):
                    continue
                if ending == '.cls':
                    content = file.extractfile(member).read(64)
                elif ending in image_endings():
                    content = b''
                else:
                    continue
                yield member.name, member.offset_data, member.size, content
    except tarfile.TarError as error:
        raise ValueError(
            f'"{shard}" is no whole tar file ({error}); copy it again.'
        ) from error


def _class_id(content: bytes, member: str) -> int:
    """The number in a ``.cls`` file."""
    text = content.strip()
    if not (text.isascii() and text.isdigit()):
        raise ValueError(
            f'{member} holds {content[:40]!r}, which is no class id; write a number '
            'from 0.'
        )
    return int(text)


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
        stem = os.path.splitext(image.name)[0]
        for name, data in (
            (image.name, content),
            (f'{stem}.cls', str(image.label).encode()),
        ):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            shard.addfile(member, io.BytesIO(data))
    if shard is not None:
        shard.close()
