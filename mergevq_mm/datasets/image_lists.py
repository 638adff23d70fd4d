"""Lists of images, such as ``meta/train.txt``: a path and a class id a line."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator

from mmengine import fileio

_LABEL = re.compile(r'-?[0-9]+')  # int() would also take '1_000'
_EXPECTED = (
    'expected is a path and a class id with a space between them, such as "cat/1.jpg 0"'
)


def read_labelled(file: str) -> list[tuple[str, int]]:
    """Read a list with classes.

    Path and class id stand apart by spaces or a tab; the path may have spaces in it.
    Blank lines, Windows' line ends and a byte order mark are left out.

    Args:
        file (str): Path or address of the list.

    Returns:
        list[tuple[str, int]]: Path and class id of each image.

    Raises:
        ValueError: If the file is no UTF-8, empty, or has a line of another form.
    """
    samples = []
    for number, line in _lines(file):
        name, _, label = line.rstrip().replace('\t', ' ').rpartition(' ')
        if not name.strip() or not _LABEL.fullmatch(label):
            problem = f'its class is {label!r}' if name.strip() else 'it has one word'
            raise ValueError(
                f'ann_file={file!r}, line {number}: {line.strip()!r} is not '
                f'understood, for {problem}; {_EXPECTED}.'
            )
        samples.append((line[: len(name)].rstrip(), int(label)))
    return samples


def read_names(file: str) -> list[str]:
    """Read a list without classes, a path a line.

    Args:
        file (str): Path or address of the list.

    Returns:
        list[str]: The paths.

    Raises:
        ValueError: If the file is no UTF-8, or empty.
    """
    return [line.rstrip() for _, line in _lines(file)]


def labels_by_list(paths: Iterable[str], folder: str, file: str) -> list[int]:
    """Classes of images by a second list, whatever classes they were read with.

    Args:
        paths (Iterable[str]): Of the images.
        folder (str): What the paths of the list lie in.
        file (str): The list.

    Returns:
        list[int]: A class for each path.

    Raises:
        ValueError: If the list does not name an image.
    """
    numbers = dict(read_labelled(file))
    names = [os.path.relpath(path, folder).replace(os.sep, '/') for path in paths]
    missing = [name for name in names if name not in numbers]
    if missing:
        raise ValueError(
            f'file={file!r} gives no class to {missing[0]!r} and {len(missing) - 1} '
            'other images; give a list of all of them.'
        )
    return [numbers[name] for name in names]


def _lines(file: str) -> Iterator[tuple[int, str]]:
    """Number and text of the lines that are not blank."""
    try:
        text = fileio.get(file).decode('utf-8-sig')
    except UnicodeDecodeError as error:
        raise ValueError(
            f'ann_file={file!r} is no text in UTF-8 ({error}); save it as UTF-8.'
        ) from error
    # Not splitlines(), for names may hold what it takes for the end of a line.
    lines = text.replace('\r\n', '\n').split('\n')
    kept = [(i, line) for i, line in enumerate(lines, 1) if line.strip()]
    if not kept:
        raise ValueError(f'ann_file={file!r} lists no image; write one a line.')
    yield from kept


def write_labelled(samples: Iterable[tuple[str, int]]) -> str:
    """The text of a list that :func:`read_labelled` reads.

    Args:
        samples (Iterable[tuple[str, int]]): Path and class id of each image.

    Returns:
        str: A line each.

    Raises:
        ValueError: If a path cannot stand in a line.
    """
    lines = []
    for name, label in samples:
        if name != name.rstrip() or '\n' in name:
            raise ValueError(
                f'{name!r} cannot stand in a list of images; rename the file so that '
                'it has no line break and does not end in a space.'
            )
        lines.append(f'{name} {label}\n')
    return ''.join(lines)
