"""How many operators a piece of code runs: on a GPU each is a launch of a kernel.

Counted are ATen's operators that compute or copy; views cost nothing. What a GPU does
by one kernel and a CPU by several counts as one: the norm of :data:`SINGLE`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

SINGLE = ('rms_norm',)
# Beside those that say so themselves.
VIEWS = ('aten::_unsafe_view', 'aten::_reshape_alias', 'aten::lift_fresh')


@contextmanager
def count_operators(single: Collection[str] = SINGLE) -> Iterator[Counter[str]]:
    """Count the operators that run meanwhile.

    Args:
        single (Collection[str]): Functions of torch that count as one operator,
            whatever they consist of here. Defaults to :data:`SINGLE`.

    Yields:
        Counter[str]: How often each has run; ``total()`` is their number.
    """
    counts: Counter[str] = Counter()
    operators = _Operators(counts)
    with _Functions(operators, single), operators:
        yield counts


class _Operators(TorchDispatchMode):
    """Counts what reaches a device, unless it is paused."""

    def __init__(self, counts: Counter[str]) -> None:
        super().__init__()
        self.counts, self.paused = counts, False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        name = func.name()
        if not (self.paused or func.is_view or name in VIEWS):
            self.counts[name] += 1
        return func(*args, **(kwargs or {}))


class _Functions(TorchFunctionMode):
    """Counts functions as one, and pauses the count of what they consist of."""

    def __init__(self, operators: _Operators, single: Collection[str]) -> None:
        super().__init__()
        self.operators, self.single = operators, frozenset(single)

    def __torch_function__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        name = getattr(func, '__name__', '')
        if name not in self.single or self.operators.paused:
            return func(*args, **(kwargs or {}))
        self.operators.counts[name] += 1
        self.operators.paused = True
        try:
            return func(*args, **(kwargs or {}))
        finally:
            self.operators.paused = False
