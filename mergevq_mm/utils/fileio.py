"""Files that are either whole or not there."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path


def write_atomically(content: bytes, path: str | os.PathLike) -> None:
    """Write a file so that a crash leaves the old one or the new one, whole.

    The bytes go to ``<path>.<eight digits>.tmp`` first and reach the disk before the
    file takes its name, so that a killed process or a power failure leaves no truncated
    file. The digits are drawn: two processes that write the same file do not meet.

    Args:
        content (bytes): What to write.
        path (str | PathLike): Where. Missing folders are made.

    Raises:
        OSError: If it cannot be written, for example on a full disk; what ``path``
            held before is kept.
    """
    path = Path(path)
    temporary = temporary_name(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, 'wb') as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise OSError(
            error.errno,
            f'Saving {len(content)} bytes to "{path}" failed ({error.strerror}): free '
            'space or choose another folder; earlier files are kept',
        ) from error
    finally:  # nobody comes by this name again, after a Ctrl-C neither
        with contextlib.suppress(OSError):
            temporary.unlink()
    _sync_folder(path.parent)


def is_taken(folder: str | os.PathLike) -> bool:
    """Whether a new folder of this name would have to replace something.

    Args:
        folder (str | PathLike): The name.

    Returns:
        bool: False if nothing is there, or an empty folder.
    """
    folder = Path(folder)
    return folder.exists() and not (folder.is_dir() and not any(folder.iterdir()))


@contextlib.contextmanager
def new_folder(folder: str | os.PathLike) -> Iterator[Path]:
    """Fill a folder that nobody sees before it is complete.

    Args:
        folder (str | PathLike): To make; it may be there if it is empty.

    Yields:
        Path: A folder beside it, which takes its name at the end; should the block
        fail, it goes.

    Raises:
        OSError: If ``folder`` holds something, or cannot be made.
    """
    folder = Path(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=f'.{folder.name}.', dir=folder.parent))
    except OSError as error:
        raise OSError(
            error.errno,
            f'folder "{folder}" cannot be made ({error.strerror}): choose another, or '
            'make that around it writable',
        ) from error
    try:
        os.chmod(work, 0o755)  # mkdtemp makes a private folder
        yield work
        if folder.exists():
            folder.rmdir()
        work.rename(folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def temporary_name(path: Path) -> Path:
    """Draw a name for a file until it is whole.

    Args:
        path (Path): Its name then, which may be as long as the system allows.

    Returns:
        Path: Beside it; see :func:`clear_temporary`.
    """
    stem = os.fsdecode(os.fsencode(path.name)[:200])
    return path.with_name(f'{stem}.{uuid.uuid4().hex[:8]}.tmp')


def clear_temporary(folder: str | os.PathLike, pattern: str) -> None:
    """Delete what :func:`write_atomically` left half written when it was killed.

    Args:
        folder (str | PathLike): Where to look; nobody else may be writing there.
        pattern (str): Of the names that the files were to get, such as ``'*.pth'``.
    """
    for ending in ('tmp', '*.tmp'):  # those of 0.1 before names were drawn, and now
        for path in Path(folder).glob(f'{pattern}.{ending}'):
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
