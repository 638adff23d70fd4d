"""Counting the operators that a computation starts, on any device.

Each operator of torch that is not a mere view costs a GPU at least one kernel, and the
host the time to start it; where the tensors are small, that is the whole cost. The
count needs no GPU.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode

# Alias their input in all but name: their schema does not say so.
_VIEWS = {'_unsafe_view', '_reshape_alias', 'lift_fresh'}


class _Recorder(TorchDispatchMode):
    """Counts operators by name as they reach the device."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()

    def __torch_dispatch__(
        self, operator: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        name = operator._schema.name.split('::')[1]
        aliases = [out.alias_info for out in operator._schema.returns]
        view = any(alias is not None and not alias.is_write for alias in aliases)
        if not view and name not in _VIEWS:
            self.found[name] += 1
        return operator(*args, **(kwargs or {}))


def count_operators(work: Callable[[], Any]) -> Counter[str]:
    """Operators of a piece of work, those that only look at a tensor left out.

    Args:
        work (Callable): Run once.

    Returns:
        Counter[str]: How often each operator ran, by its name in ``torch.ops.aten``.
    """
    with _Recorder() as recorder:
        work()
    return recorder.found
