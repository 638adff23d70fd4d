"""Folders with links in them, walked once before anything lists them."""

from __future__ import annotations

import os

from mergevq_mm.utils.images import is_hidden


def check_links(folder: str) -> None:
    """Refuse a link that leads to a folder above itself, and folders without access.

    A list of files that follows such a link finds each image dozens of times, until
    the system refuses the path.

    Args:
        folder (str): A folder on a local disk.

    Raises:
        ValueError: If there is one; it is named.
    """
    start = os.path.realpath(folder)
    waiting = [(folder, frozenset([start]))]  # a folder and the real ones above it
    while waiting:
        current, above = waiting.pop()
        for path in _subfolders(current):
            real = os.path.realpath(path)
            if real in above:
                raise ValueError(
                    f'data_root: the link "{path}" leads back to "{real}", in which it '
                    'lies; remove it.'
                )
            waiting.append((path, above | {real}))


def _subfolders(folder: str) -> list[str]:
    """Folders in a folder that are not hidden, through links too."""
    try:
        with os.scandir(folder) as entries:
            return [e.path for e in entries if e.is_dir() and not is_hidden(e.name)]
    except OSError as error:
        raise ValueError(
            f'data_root: the folder "{folder}" cannot be read ({error.strerror}); '
            'repair its permissions or the link, or remove it.'
        ) from error
