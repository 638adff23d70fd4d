"""Images of visitors: the folder that they lie in, and how they are read.

Gradio opens what a browser names, with all formats of Pillow and a check that a request
can leave out. So our functions get what the browser sends as it is, and all that is
opened goes through :func:`read_upload`.
"""

from __future__ import annotations

import atexit
import functools
import os
import secrets
import shutil
import tempfile
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np

from mergevq_mm.utils.images import WHITE, decode_image, image_endings

MAX_BYTES = 2**25  # of an image
MAX_PIXELS = 2**26  # of one that a visitor sends: others wait while it is read
MAX_FOLDER = 2**28  # bytes of all files of the page


class ForeignFileError(ValueError):
    """A file that is not one of the page's."""


@functools.cache
def temporary_folder() -> Path:
    """The folder of the page's files: of this process alone, and gone at its end.

    Returns:
        Path: Gradio uses it too. Its own, in the folder for temporary files, is that of
        all pages of the machine.
    """
    folder = Path(tempfile.mkdtemp(prefix='mergevq-web-')).resolve()
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    os.environ['GRADIO_TEMP_DIR'] = str(folder)
    return folder


def store_upload(content: bytes, name: str) -> Path:
    """Keep what a visitor sends.

    Args:
        content (bytes): Of the file.
        name (str): Of the file there. Its ending is kept, if it is one of images.

    Returns:
        Path: In the folder of the page; nobody else can guess it.
    """
    ending = Path(name).suffix.lower()
    folder = temporary_folder() / secrets.token_hex(16)
    folder.mkdir()
    path = folder / f'image{ending if ending in image_endings() else ""}'
    path.write_bytes(content)
    return path


def read_upload(
    payload: Any, background: tuple[int, int, int] = WHITE
) -> np.ndarray | None:
    """The image that a browser names.

    Args:
        payload (Any): Of gradio's image: a dict with the ``path`` of a file of the
            page; None where there is none. Anybody may have written it.
        background (tuple[int, int, int]): Colour behind transparent pixels. Defaults to
            white.

    Returns:
        np.ndarray: H×W×3 uint8, as the command line reads it; None where there is none.

    Raises:
        ForeignFileError: If it is no file of the page. It says the same of all others,
            whether they exist or not.
        ValueError: If it is no image, or too large.
    """
    if payload is None:
        return None
    path = payload.get('path') if isinstance(payload, dict) else None
    foreign = ForeignFileError('This is no image of this page; upload it again.')
    if not is_of_page(path):
        raise foreign
    try:
        with open(path, 'rb') as file:
            content = file.read(MAX_BYTES + 1)
    except OSError:  # it has made room just now
        raise foreign from None
    if len(content) > MAX_BYTES:
        raise ValueError(
            f'The image has more than {MAX_BYTES >> 20} MiB; give a smaller one.'
        )
    return np.asarray(decode_image(content, 'The image', background, MAX_PIXELS))


def is_of_page(path: Any) -> bool:
    """Whether this is the path of a regular file in the folder of the page."""
    folder = temporary_folder()
    try:
        # By its name first: of a file elsewhere nothing is asked.
        if not Path(os.path.normpath(path)).is_relative_to(folder):
            return False
        real = Path(os.path.realpath(path))
        return real.is_relative_to(folder) and real.is_file()
    except (OSError, TypeError, ValueError):
        return False


def files_of_page() -> list[Path]:
    """All files in the folder of the page."""
    return [path for path in temporary_folder().rglob('*') if path.is_file()]


def make_room(fixed: Collection[Path] = (), limit: int = MAX_FOLDER) -> None:
    """Delete the oldest files of the page until the others fit.

    Args:
        fixed (Collection[Path]): Files that stay, such as the examples.
        limit (int): Bytes of all others. Defaults to ``MAX_FOLDER``.
    """
    found = []
    for path in files_of_page():
        try:
            state = path.stat()
        except OSError:  # gone meanwhile
            continue
        if path not in fixed:
            found.append((state.st_mtime, state.st_size, path))
    total = sum(size for _, size, _ in found)
    for _, size, path in sorted(found):
        if total <= limit:
            return
        path.unlink(missing_ok=True)
        total -= size
