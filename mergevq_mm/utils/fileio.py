"""Files that are either whole or not there."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from mmengine.fileio import register_backend
from mmengine.fileio.backends import LocalBackend


def write_atomically(content: bytes, path: str | os.PathLike) -> None:
    """Write a file so that a crash leaves the old one or the new one, whole.

    The bytes go to ``<path>.tmp`` first and reach the disk before the file takes its
    name, so that a killed process or a power failure leaves no truncated file.

    Args:
        content (bytes): What to write.
        path (str | PathLike): Where. Missing folders are made.

    Raises:
        OSError: If it cannot be written, for example on a full disk; what ``path``
            held before is kept.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + '.tmp')
    try:
        with open(temporary, 'wb') as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise OSError(
            error.errno,
            f'Saving {len(content)} bytes to "{path}" failed ({error.strerror}): free '
            'space or choose another folder; earlier files are kept',
        ) from error
    _sync_folder(path.parent)


def clear_temporary(folder: str | os.PathLike, pattern: str) -> None:
    """Delete what :func:`write_atomically` left half written when it was killed.

    Args:
        folder (str | PathLike): Where to look; nobody else may be writing there.
        pattern (str): Of the names that the files were to get, such as ``'*.pth'``.
    """
    for path in Path(folder).glob(f'{pattern}.tmp'):
        with contextlib.suppress(OSError):
            path.unlink()


def _sync_folder(folder: Path) -> None:
    """Make a rename durable, where the system can (not on Windows)."""
    with contextlib.suppress(OSError, PermissionError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@register_backend('mergevq_atomic', force=True)
class AtomicLocalBackend(LocalBackend):
    """The local disk, written atomically and cleared late.

    Select it by ``backend_args=dict(backend='mergevq_atomic')``. mmengine removes
    outdated checkpoints before it writes new ones; here removals are only noted, and
    happen in :meth:`remove_outdated`, which is called once the new file is there.
    """

    def __init__(self) -> None:
        self.outdated: list[str] = []

    def put(self, obj: bytes, filepath: str | os.PathLike) -> None:
        """Write bytes atomically.

        Args:
            obj (bytes): What to write.
            filepath (str | PathLike): Where.
        """
        write_atomically(obj, filepath)

    def put_text(
        self, obj: str, filepath: str | os.PathLike, encoding: str = 'utf-8'
    ) -> None:
        """Write text atomically.

        Args:
            obj (str): What to write.
            filepath (str | PathLike): Where.
            encoding (str): Defaults to 'utf-8'.
        """
        write_atomically(obj.encode(encoding), filepath)

    def remove(self, filepath: str | os.PathLike) -> None:
        """Note a file as outdated.

        Args:
            filepath (str | PathLike): The file.
        """
        self.outdated.append(str(filepath))

    def remove_outdated(self, keep: tuple[str | None, ...] = ()) -> None:
        """Delete the files noted.

        Args:
            keep (tuple[str | None, ...]): Files to leave, as they have been written
                anew. Defaults to ().
        """
        for filepath in self.outdated:
            if filepath not in keep:
                with contextlib.suppress(FileNotFoundError):
                    os.remove(filepath)
        self.outdated = []
