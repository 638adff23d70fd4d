"""Numbers and choices from a browser, which anybody may have written."""

from __future__ import annotations

import reprlib
from collections.abc import Sequence
from typing import Any, TypeVar

Choice = TypeVar('Choice')


def number(name: str, value: Any, low: float, high: float) -> float:
    """A number within limits.

    Args:
        name (str): What errors call it.
        value (Any): What came.
        low (float): The smallest that is taken.
        high (float): The largest.

    Returns:
        float: The number.

    Raises:
        ValueError: If it is no number, or out of range.
    """
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or not low <= value <= high:  # not of NaN, either
        raise ValueError(
            f'{name} = {reprlib.repr(value)} lies outside of {low} to {high}; give a '
            'number between them.'
        )
    return value


def whole(name: str, value: Any, low: int, high: int) -> int:
    """A whole number within limits, see :func:`number`."""
    if number(name, value, low, high) != int(value):
        raise ValueError(f'{name} = {value} is no whole number; give one.')
    return int(value)


def choice(name: str, value: Any, options: Sequence[Choice]) -> Choice:
    """One of several values.

    Args:
        name (str): What errors call it.
        value (Any): What came.
        options (Sequence): Numbers or words.

    Returns:
        Any: The option.

    Raises:
        ValueError: If it is none of them.
    """
    if isinstance(value, bool) or value not in options:
        listed = ', '.join(map(str, options))
        raise ValueError(f'{name} = {reprlib.repr(value)} is none of {listed}.')
    return options[options.index(value)]
