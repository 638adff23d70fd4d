"""Values of a checkpoint as plain types, and back.

A file that holds tensors, numbers, strings, lists and dicts alone loads under
``weights_only=True``; mmengine also stores ``HistoryBuffer`` and numpy values.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from mmengine.logging import HistoryBuffer, print_log

# Keys of the plain dicts that stand for objects in a checkpoint.
_ARRAY = '__ndarray__'
_HISTORY = '__history_buffer__'
_DROPPED = object()


def to_plain(value: Any, name: str = '') -> Any:
    """Turn a value into types that load under ``weights_only=True``.

    Args:
        value (Any): Anything mmengine puts into a checkpoint.
        name (str): How to name the value in warnings. Defaults to ''.

    Returns:
        Any: Numbers, strings, lists, tuples, dicts and tensors. What cannot be
        expressed by them is left out of its dict with a warning.
    """
    plain = _to_plain(value, name)
    return None if plain is _DROPPED else plain


def _to_plain(value: Any, name: str) -> Any:
    if value is None or isinstance(value, torch.Tensor):
        return value
    for kind in (bool, int, float, complex, str, bytes):  # also subclasses of them
        if isinstance(value, kind):
            return kind(value)
    if isinstance(value, np.generic):
        return _to_plain(value.item(), name)
    if isinstance(value, (torch.dtype, torch.device, torch.Size)):
        return value
    if isinstance(value, HistoryBuffer):
        logs, counts = (_to_plain(array, name) for array in value.data)
        return {_HISTORY: [logs, counts, value.max_length]}
    if isinstance(value, np.ndarray) and value.dtype.kind in 'biufc':
        return {_ARRAY: torch.from_numpy(np.array(value)), 'dtype': value.dtype.str}
    if isinstance(value, np.ndarray):
        return _to_plain(value.tolist(), name)
    if isinstance(value, Mapping):
        items = {k: _to_plain(v, f'{name}.{k}') for k, v in value.items()}
        return {k: v for k, v in items.items() if v is not _DROPPED}
    if isinstance(value, (list, tuple, set, frozenset)):
        items = [_to_plain(v, f'{name}[{i}]') for i, v in enumerate(value)]
        items = [None if v is _DROPPED else v for v in items]
        return tuple(items) if isinstance(value, tuple) else items
    print_log(
        f'"{name}" is a {type(value).__name__} and is left out of the checkpoint, '
        'which holds plain types only.',
        logger='current',
        level=logging.WARNING,
    )
    return _DROPPED


def from_plain(value: Any) -> Any:
    """Bring the objects that :func:`to_plain` replaced back.

    Args:
        value (Any): A value of :func:`to_plain`.

    Returns:
        Any: The same with ``HistoryBuffer`` and numpy arrays.
    """
    if isinstance(value, Mapping):
        if _ARRAY in value:
            return value[_ARRAY].cpu().numpy().astype(value['dtype'])
        if _HISTORY in value:
            logs, counts, max_length = value[_HISTORY]
            return HistoryBuffer(from_plain(logs), from_plain(counts), max_length)
        for key in value:
            value[key] = from_plain(value[key])
        return value
    if isinstance(value, (list, tuple)):
        return type(value)(from_plain(item) for item in value)
    return value
