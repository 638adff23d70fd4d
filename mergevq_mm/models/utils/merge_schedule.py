"""How many tokens each layer merges, so that exactly K of L remain.

Differences: the authors' code clips a layer's number silently to half of its tokens
and may then miss K. Here the wish of a schedule is kept wherever it can be kept and
moved to the neighbouring layers where it cannot, so the total is always exact.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from numbers import Integral, Real


def _linear(total: int, layers: int) -> list[int]:
    """Fall from about 1.5 to 0.5 times the mean (authors' "inflection -0.5")."""

    def wish(mean: int) -> list[int]:
        first = int(1.5 * mean)
        step = (2 * mean - 2 * first) / max(layers - 1, 1)
        return [int(first + i * step) for i in range(layers)]

    # Of the integer means, the one whose rounded total comes closest; the smaller one
    # on a tie. The rest, which may be negative, goes to layer 0.
    around = total // layers
    removed = wish(max(around - 2, 0))
    for mean in range(max(around - 1, 0), around + 4):
        if abs(sum(wish(mean)) - total) < abs(sum(removed) - total):
            removed = wish(mean)
    removed[0] += total - sum(removed)
    return removed


def _constant(total: int, layers: int) -> list[int]:
    """The same number in each layer, the remainder one by one from layer 0."""
    return [total // layers + (i < total % layers) for i in range(layers)]


def _square(total: int, layers: int) -> list[int]:
    """Fall with the square of the layers that are left, the remainder at layer 0."""
    weights = [(layers - i) ** 2 for i in range(layers)]
    removed = [total * w // sum(weights) for w in weights]
    removed[0] += total - sum(removed)
    return removed


# What each layer would merge of a total, by the number of layers; one may be added.
SCHEDULES: dict[str, Callable[[int, int], list[int]]] = {
    'linear': _linear,
    'constant': _constant,
    'square': _square,
}


def merge_schedule(
    length: int, keep: int, layers: int, schedule: str = 'linear'
) -> list[int]:
    """Number of tokens to merge in each layer (paper section 3.2 and appendix).

    A layer can merge at most half of its tokens. Where a schedule asks for more, the
    excess moves to the next layers that have room, and where too little would be left
    to the later layers, it is taken earlier: the sum is exactly ``length - keep``.

    Args:
        length (int): Tokens before the first layer, the class token not counted (L).
        keep (int): Tokens after the last layer, the class token not counted (K).
        layers (int): Number of layers that merge (N).
        schedule (str): A key of ``SCHEDULES``. Defaults to 'linear'.

    Returns:
        list[int]: ``layers`` numbers, each at most half of the tokens of its layer.

    Raises:
        ValueError: If the schedule is unknown, ``keep`` lies outside [1, L], or so many
            tokens cannot be merged by halving them once a layer.
    """
    if schedule not in SCHEDULES:
        raise ValueError(
            f"schedule='{schedule}' is not known; choose one of {', '.join(SCHEDULES)}."
        )
    if not 1 <= keep <= length:
        raise ValueError(
            f'keep={keep} lies outside [1, {length}], the number of tokens; choose K '
            'between 1 and L (K = L turns merging off).'
        )
    if length > keep * 2**layers:
        raise ValueError(
            f'keep={keep} cannot be reached from {length} tokens: {layers} layers '
            f'halve at most to {least_keep(length, layers)}; keep more tokens or use '
            'more layers.'
        )
    removed: list[int] = []
    owed = 0
    tokens = length
    for layer, wanted in enumerate(SCHEDULES[schedule](length - keep, layers)):
        owed += wanted
        # At least so many that halving in the layers after this one still reaches K.
        least = max(tokens - keep * 2 ** (layers - 1 - layer), 0)
        most = min(tokens // 2, tokens - keep)
        now = min(max(owed, least), most)
        removed.append(now)
        owed -= now
        tokens -= now
    return removed


def least_keep(length: int, layers: int) -> int:
    """The fewest tokens that so many layers can merge L to: each halves at most."""
    return -(-length // (1 << layers))


def share_schedule(
    length: int, share: float, layers: int, schedule: str = 'linear'
) -> list[int]:
    """:func:`merge_schedule` to a share of L, or the least that the layers can reach.

    Args:
        length (int): L.
        share (float): Of L, in (0, 1].
        layers (int): Number of layers that merge.
        schedule (str): See :func:`merge_schedule`. Defaults to 'linear'.

    Returns:
        list[int]: See :func:`merge_schedule`.
    """
    keep = max(round(share * length), least_keep(length, layers))
    return merge_schedule(length, keep, layers, schedule)


def clip_removed(length: int, removed: Sequence[int]) -> list[int]:
    """Numbers made for another length, each clipped to half of its layer's tokens.

    Args:
        length (int): Tokens before the first layer, the class token not counted.
        removed (Sequence[int]): Tokens to merge, layer by layer.

    Returns:
        list[int]: Numbers that each layer can merge.
    """
    clipped = []
    for number in removed:
        clipped.append(min(number, length // 2))
        length -= clipped[-1]
    return clipped


def check_removed(
    length: int, removed: Sequence[int], layers: int | None = None
) -> None:
    """Refuse a hand-made list of numbers that some layer cannot merge.

    Args:
        length (int): Tokens before the first layer, the class token not counted.
        removed (Sequence[int]): Tokens to merge, layer by layer.
        layers (int, optional): How many there are. Defaults to None, as many.

    Raises:
        ValueError: If a number is negative or over half of the tokens of its layer, or
            they are not as many as the layers.
    """
    if layers is not None and len(removed) != layers:
        raise ValueError(
            f'removed={list(removed)} has {len(removed)} numbers; give one for '
            f'each of the {layers} blocks.'
        )
    tokens = length
    for layer, number in enumerate(removed):
        if not 0 <= number <= tokens // 2:
            raise ValueError(
                f'r={number} in layer {layer} lies outside [0, {tokens // 2}]: a layer '
                f'merges at most half of its {tokens} tokens; lower r there or merge '
                'more in other layers.'
            )
        tokens -= number


def resolve_keep(keep: int | float | None, length: int) -> int:
    """Number of tokens from a number, a share of ``length``, or None for all."""
    if keep is None:
        return length
    if isinstance(keep, bool) or not isinstance(keep, Real):
        raise ValueError(
            f'keep={keep!r} is no number of tokens; give K, a share such as 0.25, or '
            'None for all (a Budget, or a list with a K for each image, to the encode '
            'of a whole tokenizer: model.encode).'
        )
    if not isinstance(keep, Integral):
        if not 0 < keep <= 1:
            raise ValueError(
                f'keep={keep} is a share outside (0, 1]; give a share such as 0.25, or '
                'a whole number of tokens.'
            )
        return max(round(keep * length), 1)
    return int(keep)
