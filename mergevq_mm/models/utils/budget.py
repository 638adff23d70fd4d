"""How many tokens an image needs: K by image, from what each K would be worth to it.

A table says how well each of B images is kept at each of C numbers of tokens, the rows
of quality. Either each image gets the fewest tokens that reach a quality. Or the tokens
of a batch go where they are worth most: from the fewest on, always the step that gains
most quality a token (the steps of the concave hull of each row, largest slope first:
Lagrange's rule, one price of a token for all images).

The paper has one K for a batch; this is ours. (Of other tokenizers, AdaTok of 2026 is
one that chooses the number of tokens by image.)
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any

import numpy as np

from .merge_schedule import resolve_keep

if TYPE_CHECKING:
    from typing_extensions import TypeIs

SIGNALS = ('psnr', 'error', 'similarity')
# What is chosen from: of L for a quality, and of the mean. How well an image comes back
# is jagged in K, so that a K close by is often better for it.
SHARES = tuple(2 ** (-i / 4) for i in range(16, -1, -1))
AROUND = tuple(i / 12 for i in (6, 7, 8, 9, 10, 11, 12, 13, 14, 16, 18, 20, 24))


@dataclass(frozen=True, eq=False)
class Budget:
    """How many tokens the images of a batch may have: a K for each of them.

    Give one of the first three. A quality is asked of each image by itself, a mean of
    a batch: there an image gets what others can spare.

    Args:
        mean (int | float, optional): Tokens of an image, on average over the batch at
            most; up to 1.0 a share of L.
        similarity (float, optional): The fewest tokens with which positions are so
            similar to the token that stands for them: the mean over L of the cosines
            of all pairs that merge, 1 for those that do not. See
            :func:`~.budget_signals.similarity_table`. In (-1, 1].
        psnr (float, optional): The fewest tokens whose reconstruction has this PSNR,
            dB; where none has, those with the best one.
        by (str, optional): What a mean is spent on: the mean 'psnr' of the images, or
            the mean squared 'error', which crowded images count more in; for both they
            are decoded at each K. Or 'similarity', which takes one more run of the
            encoder's blocks. Defaults to None, 'psnr'.
        keeps (Sequence[int | float], optional): The K to choose from, or shares of L.
            Each that is chosen is a batch of its own, so that few are faster. Defaults
            to None, ``SHARES`` of L, or ``AROUND`` the mean, as far as the encoder can
            reach them.

    Raises:
        ValueError: If not one of the three is given, or a number is out of range.
    """

    mean: int | float | None = None
    similarity: float | None = None
    psnr: float | None = None
    by: str | None = None
    keeps: Sequence[int | float] | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            value = plain_numbers(getattr(self, field.name))
            object.__setattr__(self, field.name, value)
        if len(self._given) != 1:
            raise ValueError(
                f'{self} has to say one thing; give one of mean, similarity and psnr.'
            )
        name, value = self.aim
        if not _is_number(value):
            raise ValueError(f'{name}={value!r} of a budget is no number; give one.')
        if name == 'mean' and value > 1 and value == int(value):
            object.__setattr__(self, 'mean', int(value))  # 8.0 are 8, but 1.0 is all
        if name == 'mean' and value <= 0:
            raise ValueError(
                f'mean={value} of a budget leaves no tokens; give a number of them, or '
                'a share such as 0.25.'
            )
        if name == 'similarity' and not -1 < value <= 1:
            raise ValueError(
                f'similarity={value} of a budget lies outside (-1, 1]; give a cosine '
                'such as 0.95.'
            )
        if self.by is not None and (name != 'mean' or self.by not in SIGNALS):
            raise ValueError(
                f"by='{self.by}' of a budget says what a mean is spent on; choose one "
                f'of {", ".join(SIGNALS)}, and leave it out beside a quality.'
            )
        if self.keeps is not None:
            keeps = tuple(map(plain_numbers, self.keeps)) if is_list(self.keeps) else ()
            if not keeps or not all(map(_is_number, keeps)):
                raise ValueError(
                    f'keeps={self.keeps!r} of a budget is no list of numbers of '
                    'tokens; give some K, or shares, such as [8, 16].'
                )
            object.__setattr__(self, 'keeps', keeps)

    def __str__(self) -> str:
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        given = (f'{k}={v!r}' for k, v in values.items() if v is not None)
        return f'Budget({", ".join(given)})'

    # By its words: as numbers a share of 1.0 and one token are equal.
    def __eq__(self, other: object) -> bool:
        return isinstance(other, Budget) and str(self) == str(other)

    def __hash__(self) -> int:
        return hash(str(self))

    @property
    def aim(self) -> tuple[str, float]:
        """tuple[str, float]: What is asked for, 'mean', 'similarity' or 'psnr'."""
        return self._given[0]

    @property
    def _given(self) -> list[tuple[str, float]]:
        aims = [(name, getattr(self, name)) for name in ('mean', 'similarity', 'psnr')]
        return [(name, value) for name, value in aims if value is not None]

    @property
    def by_similarity(self) -> bool:
        """bool: Whether the table is of similarities; else images are decoded."""
        return self.similarity is not None or self.by == 'similarity'

    def candidates(self, length: int, least: int) -> list[int]:
        """The K to choose from.

        Args:
            length (int): Positions of an image, L.
            least (int): The fewest tokens that the encoder can merge them to.

        Returns:
            list[int]: Ascending.

        Raises:
            ValueError: If one cannot be reached, or the mean lies below all of them.
        """
        tokens = self.tokens(length)
        if self.keeps is None:
            shares, of = (SHARES, length) if tokens is None else (AROUND, tokens)
            keeps = {min(max(round(share * of), least), length) for share in shares}
        else:
            keeps = {resolve_keep(keep, length) for keep in self.keeps}
            if min(keeps) < least or max(keeps) > length:
                raise ValueError(
                    f'keeps={list(self.keeps)} of a budget are not all among the '
                    f'{least} to {length} tokens that this encoder can keep; give K '
                    'from there.'
                )
        if tokens is not None and tokens < min(keeps):
            raise ValueError(
                f'mean={self.mean} of a budget is less than the {min(keeps)} tokens '
                f'that an image has at least; give {min(keeps)} or more.'
            )
        return sorted(keeps)

    def tokens(self, length: int) -> float | None:
        """The mean as a number of tokens: up to 1.0 it is a share of L."""
        if self.mean is None or isinstance(self.mean, Integral) or self.mean > 1:
            return self.mean
        return float(self.mean * length)

    def choose(self, table: np.ndarray, keeps: Sequence[int], length: int) -> list[int]:
        """K of each image.

        An image whose values are not all finite gets the fewest tokens; the others do
        not notice.

        Args:
            table (np.ndarray): Of each image at each K, B×C: PSNR in dB, or similarity.
            keeps (Sequence[int]): The C numbers of tokens, ascending.
            length (int): L.

        Returns:
            list[int]: B of ``keeps``.
        """
        mean = self.tokens(length)
        table = np.where(np.isfinite(table).all(axis=1, keepdims=True), table, 0.0)
        if mean is not None:
            if self.by == 'error':
                table = -(10.0 ** (-table / 10))
            place = best_at_mean(table, keeps, mean)
        else:
            place = fewest_that_reach(table, self.aim[1])
        return [keeps[int(i)] for i in place]


def is_list(keep: object) -> TypeIs[Sequence[Any]]:
    """Whether somebody gave several numbers, in a list or the like."""
    return isinstance(keep, Sequence) and not isinstance(keep, (str, bytes))


def plain_numbers(value: Any) -> Any:
    """What a tensor, an array or a number of numpy holds, as Python's own numbers.

    Args:
        value (Any): Anything.

    Returns:
        Any: A number, or a list of them; else ``value`` itself.
    """
    return value.tolist() if hasattr(value, 'tolist') else value


def _is_number(value: Any) -> bool:
    most = sys.float_info.max  # of what arithmetic here can hold; NaN is not below it
    real = isinstance(value, Real) and not isinstance(value, bool)
    return real and -most <= value <= most


def fewest_that_reach(table: np.ndarray, aim: float) -> np.ndarray:
    """The first column of each row that reaches a value, or the best where none does.

    Args:
        table (np.ndarray): Quality, B×C. It need not rise along a row.
        aim (float): The value.

    Returns:
        np.ndarray: B int64.
    """
    reached = table >= aim
    place: np.ndarray = np.where(
        reached.any(axis=1), reached.argmax(axis=1), table.argmax(axis=1)
    )
    return place


def best_at_mean(table: np.ndarray, keeps: Sequence[int], mean: float) -> np.ndarray:
    """Columns of the highest total quality, with a bound on the mean number of tokens.

    Greedy: each image begins at the fewest tokens; the step up, by any number of
    columns, that gains most a token is taken, as long as one fits that gains anything.
    That is the best choice for what it spends (the steps are those of the concave
    hulls, by falling slope) until the first step does not fit; the rest goes to smaller
    ones. So the total lies below the best one by less than what one step gains.

    Args:
        table (np.ndarray): Quality, B×C.
        keeps (Sequence[int]): Tokens of the columns, ascending.
        mean (float): Tokens an image, at least ``keeps[0]``.

    Returns:
        np.ndarray: B int64.
    """
    table, tokens = np.asarray(table, dtype=np.float64), np.asarray(keeps)
    chosen = np.zeros(len(table), dtype=np.int64)
    # A mean such as 0.3 of L is a rounded number; what it allows is not.
    left = math.floor(len(table) * (mean - tokens[0]) + 1e-6)

    def steps(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Tokens, and gains a token, of the steps from where images are: n×C each."""
        at = chosen[rows]
        cost = tokens - tokens[at][:, None]
        gain = table[rows] - table[rows, at][:, None]
        slope = np.divide(gain, cost, out=np.zeros_like(gain), where=cost > 0)
        return cost, slope

    cost, slope = steps(np.arange(len(table)))
    while True:
        fitting = np.where(cost <= left, slope, 0.0)
        row, column = divmod(int(fitting.argmax()), len(tokens))
        if fitting[row, column] <= 0:
            return chosen
        left -= cost[row, column]
        chosen[row] = column
        (cost[row],), (slope[row],) = steps(np.array([row]))
