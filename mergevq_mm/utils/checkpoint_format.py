"""The number of the format that trainings and published folders are written in.

A program reads what earlier ones have written, and refuses what a later one has: that
may mean something else by the same names.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..version import __version__

# Rises by one whenever a program of before would misread what is written now. What is
# read of older formats, and how, is for tests/legacy to hold.
FORMAT = 1
MARK = 'mergevq_mm'


class UnusableCheckpoint(ValueError):
    """A file that cannot be loaded, says the message: damaged, foreign or too new."""


def format_mark() -> dict[str, Any]:
    """What a file is marked with, under the name ``mergevq_mm``.

    Returns:
        dict[str, Any]: ``format``, the number, and ``version``, of this program.
    """
    return {'format': FORMAT, 'version': __version__}


def check_format(mark: Any, source: str) -> None:
    """Refuse what a later program has written.

    Args:
        mark (Any): What stands under ``mergevq_mm``; files of before this number, and
            those of others, have none.
        source (str): How to name the file in the error.

    Raises:
        UnusableCheckpoint: If its number is larger than ours, or none at all.
    """
    if not isinstance(mark, Mapping):
        return
    number, version = mark.get('format'), mark.get('version', 'of a later version')
    if not isinstance(number, int) or isinstance(number, bool) or number < 1:
        raise UnusableCheckpoint(
            f'{source} has the format {number!r}, which is no number of mergevq_mm: it '
            'was altered; use another one.'
        )
    if number > FORMAT:
        raise UnusableCheckpoint(
            f'{source} has format {number}, written by mergevq_mm {version}, and this '
            f'is mergevq_mm {__version__}, which reads formats up to {FORMAT}: install '
            'that version or a later one.'
        )
