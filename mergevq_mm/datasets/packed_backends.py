"""Images out of one LMDB or a few tar files, through mmengine's file backends.

Shared file systems of clusters serve a million small files slowly. A packed data set
has the list of its images in ``meta/<split>.txt``, as :class:`ImageFolder` reads it,
and their bytes in one place::

    data/packed/
    ├── meta/train.txt         <class>/<image>.jpg <class id>
    ├── train.lmdb/            one data base, or
    └── train.tars/            shards 000000.tar, …, and index.json

``tools/dataset_converters/pack_images.py`` writes both. The shards are WebDataset's
(an image and a ``.cls`` file a sample). They are read at random through the index, not
as a stream: shuffling, resuming and distributed sampling stay those of a folder.

In a config: ``dict(type='mergevq_mm.LoadImage', backend_args=dict(
backend='mergevq_lmdb', path='data/packed/train.lmdb'))``.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from mmengine.fileio import register_backend
from mmengine.fileio.backends import BaseStorageBackend, LmdbBackend

INDEX = 'index.json'
SUFFIXES = {'lmdb': '.lmdb', 'tar': '.tars'}


def default_root(path: str | os.PathLike) -> str:
    """The folder that packed images seem to lie in.

    Args:
        path (str | PathLike): ``<folder>/train.lmdb`` or ``<folder>/train.tars``.

    Returns:
        str: ``<folder>/train``, with a slash at the end.
    """
    return str(Path(path).with_suffix('')) + '/'


def key_of(filepath: str | os.PathLike, root: str) -> str:
    """Name of a packed image.

    Args:
        filepath (str | PathLike): As the data set has it: below ``root``, or the name.
        root (str): The folder that the images seem to lie in.

    Returns:
        str: ``<class>/<image>``.
    """
    name = os.fspath(filepath).replace(os.sep, '/')
    return name[len(root) :] if name.startswith(root) else name


def missing(key: str, path: str) -> FileNotFoundError:
    """What to say where an image is not packed."""
    return FileNotFoundError(
        f'"{path}" has no image {key!r}; pack the data set anew, or set root to the '
        'folder that its paths begin with.'
    )


# lmdb opens a data base once in a process: all backends share it. By the real path.
_ENVIRONMENTS: dict[str, tuple[int, Any]] = {}


@register_backend('mergevq_lmdb', force=True)
class PackedLmdbBackend(LmdbBackend):
    """mmengine's LMDB backend for data loaders: fork-safe, any name, no silent None.

    Args:
        path (str): The data base, a folder.
        root (str, optional): What paths of images begin with. Defaults to None,
            ``path`` without its suffix.
    """

    def __init__(self, path: str | os.PathLike, root: str | None = None) -> None:
        super().__init__(os.fspath(path))
        self.root = default_root(path) if root is None else root.rstrip('/') + '/'

    def get(self, filepath: str | os.PathLike) -> bytes:
        """Read an image.

        Args:
            filepath (str | PathLike): Its path, as if it lay in a folder.

        Returns:
            bytes: The content of the file.

        Raises:
            FileNotFoundError: If there is no such data base, or no such image in it.
        """
        key = key_of(filepath, self.root)
        with self._environment().begin() as transaction:
            content = transaction.get(key.encode())
        if content is None:
            raise missing(key, self.db_path)
        return content

    def _environment(self) -> Any:
        """The open data base of this process."""
        path = os.path.realpath(self.db_path)
        owner, environment = _ENVIRONMENTS.get(path, (None, None))
        if owner == os.getpid():
            return environment
        if environment is not None:  # open since before a fork: not to be used after it
            environment.close()
        if not Path(path, 'data.mdb').is_file():
            raise FileNotFoundError(
                f'path="{self.db_path}" is no LMDB; write it with '
                'tools/dataset_converters/pack_images.py.'
            )
        environment = self._get_client()
        _ENVIRONMENTS[path] = (os.getpid(), environment)
        return environment

    def get_text(self, filepath: str | os.PathLike, encoding: str = 'utf-8') -> str:
        """Read a text.

        Args:
            filepath (str | PathLike): Its path.
            encoding (str): Defaults to 'utf-8'.

        Returns:
            str: The content.
        """
        return self.get(filepath).decode(encoding)


@register_backend('mergevq_tar', force=True)
class TarBackend(BaseStorageBackend):
    """Random access into tar files by an index of names, offsets and sizes.

    Args:
        path (str): Folder with the shards and their ``index.json``.
        root (str, optional): What paths of images begin with. Defaults to None,
            ``path`` without its suffix.

    Raises:
        FileNotFoundError: If there is no index.
    """

    def __init__(self, path: str | os.PathLike, root: str | None = None) -> None:
        self.path = os.fspath(path)
        self.root = default_root(path) if root is None else root.rstrip('/') + '/'
        index = Path(path, INDEX)
        if not index.is_file():
            raise FileNotFoundError(
                f'path="{self.path}" has no {INDEX}; write it with '
                'tools/dataset_converters/pack_images.py (--index-only for shards that '
                'are there).'
            )
        content = json.loads(index.read_text(encoding='utf-8'))
        self._shards: list[str] = content['shards']
        self._members: dict[str, list[int]] = content['members']
        self._files: dict[int, int] = {}  # number of the shard to descriptor

    def get(self, filepath: str | os.PathLike) -> bytes:
        """Read an image.

        Args:
            filepath (str | PathLike): Its path, as if it lay in a folder.

        Returns:
            bytes: The content of the file.

        Raises:
            FileNotFoundError: If no shard has it, or the shard is missing.
            OSError: If the shard ends too early.
        """
        key = key_of(filepath, self.root)
        if key not in self._members:
            raise missing(key, self.path)
        shard, offset, size = self._members[key]
        if shard not in self._files:
            path = os.path.join(self.path, self._shards[shard])
            self._files[shard] = os.open(path, os.O_RDONLY)
        # pread moves no position, so that forked processes may share the descriptor.
        content = os.pread(self._files[shard], size, offset)
        if len(content) != size:
            raise OSError(
                f'"{self._shards[shard]}" of "{self.path}" ends before {key!r} does; '
                'copy the shard again.'
            )
        return content

    def get_text(self, filepath: str | os.PathLike, encoding: str = 'utf-8') -> str:
        """Read a text.

        Args:
            filepath (str | PathLike): Its path.
            encoding (str): Defaults to 'utf-8'.

        Returns:
            str: The content.
        """
        return self.get(filepath).decode(encoding)

    def __del__(self) -> None:
        """Close the shards."""
        for descriptor in getattr(self, '_files', {}).values():
            os.close(descriptor)
