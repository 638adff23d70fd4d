"""What a checkpoint may hold beside tensors: numpy's numbers, settings, histories.

``weights_only=True`` lets a file call what a list names, with arguments of its choice.
No type of numpy may stand on it: ``numpy.ndarray`` follows any address that it is
given. A file meets stand-ins instead, which only keep what they are told; when it has
been read, :func:`revive` checks that and copies it into the real types. Of torch's own
list goes what believes a file's indices, or allocates by a number or a codec alone.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import pickle
import re
from collections.abc import Iterator
from typing import Any
from unittest import mock

import numpy as np
import torch

from ..base.tier import has_openmmlab

_CODES = frozenset('b1 i1 i2 i4 i8 u1 u2 u4 u8 f2 f4 f8 c8 c16'.split())
_TEXTS = re.compile(r'[SU]\d{1,5}')
_STATISTICS = ('min', 'max', 'current', 'mean')
# Functions of torch whose arguments nobody checks (sparse indices, nested offsets), or
# that no state needs.
_BARRED = frozenset(
    (
        '_rebuild_sparse_tensor',
        '_rebuild_nested_tensor',
        '_rebuild_wrapper_subclass',
        '_rebuild_device_tensor_from_numpy',
    )
)
# What a small file may name beyond its own size: an expanded tensor of constants.
_ROOM = 64 * 2**20


class _Dtype:
    """Stands for ``numpy.dtype``: a code of a fixed list, and the order of bytes."""

    order = '='

    def __init__(self, code: Any, *flags: Any) -> None:
        self.code = code

    def __setstate__(self, state: Any) -> None:
        self.order = state[1]  # the rest describes fields, objects and times

    def revive(self) -> np.dtype:
        code, order = self.code, self.order
        known = type(code) is str and (code in _CODES or _TEXTS.fullmatch(code))
        if not known or type(order) is not str or order not in ('=', '|', '<', '>'):
            raise pickle.UnpicklingError(f'GLOBAL numpy.dtype of {code!r}')
        return np.dtype(code).newbyteorder(order)


class _Array:
    """Stands for ``numpy.ndarray``, and for the function that begins one."""

    state: Any = None

    def __init__(self, *begun: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def revive(self) -> np.ndarray:
        if type(self.state) is not tuple or len(self.state) != 5:
            raise pickle.UnpicklingError('an array of numpy without content')
        _, shape, dtype, fortran, content = self.state
        return _numbers(dtype, content, shape, 'F' if fortran is True else 'C')


class _History:
    """Stands for mmengine's ``HistoryBuffer``, which a stock runner saves."""

    state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def revive(self) -> Any:
        state = self.state if type(self.state) is dict else {}
        length = state.get('max_length')
        found = [state.get(name) for name in ('_log_history', '_count_history')]
        logs, counts = (a.revive() if type(a) is _Array else None for a in found)
        if type(length) is not int or logs is None or counts is None:
            raise pickle.UnpicklingError('a HistoryBuffer without content')
        if not has_openmmlab():
            return {'logs': logs, 'counts': counts}
        from mmengine.logging import HistoryBuffer  # heavy, and this room is light

        buffer = HistoryBuffer(max_length=length)
        buffer._log_history, buffer._count_history = logs, counts
        return buffer


class _Kind:
    """Stands for ``torch.Tensor`` where a file names it, as the kind of a tensor."""


def _numbers(dtype: Any, content: Any, shape: Any, order: str = 'C') -> np.ndarray:
    """An array of its own memory, if its bytes are exactly those of its shape."""
    whole = type(shape) is tuple and all(type(n) is int and n >= 0 for n in shape)
    if type(dtype) is not _Dtype or type(content) is not bytes or not whole:
        raise pickle.UnpicklingError('an array of numpy that is none')
    real, number = dtype.revive(), math.prod(shape)
    if number * real.itemsize != len(content) or number > max(1, len(content)):
        raise pickle.UnpicklingError(
            f'an array of shape {shape} and type {real} with {len(content)} bytes'
        )
    return np.ndarray(shape, real, content, order=order).copy(order='K')


def _scalar(dtype: Any, content: Any) -> Any:
    """Stand for the function that makes a number of numpy."""
    return _numbers(dtype, content, ())[()]


def _history_method(owner: Any, name: str) -> str:
    """Stand for ``getattr``: a file may name the statistics of a history alone."""
    if owner is _History and name in _STATISTICS:
        return name
    raise pickle.UnpicklingError(f'GLOBAL builtins.getattr of {owner!r} and {name!r}')


def _bytes(text: str = '', encoding: str = 'latin1') -> bytes:
    """Stand for ``_codecs.encode``, of which pickle needs one codec."""
    if type(text) is not str or encoding not in ('latin1', 'latin-1'):
        raise pickle.UnpicklingError(f'GLOBAL _codecs.encode with {encoding!r}')
    return text.encode('latin1')


def _bytearray(content: Any = b'', encoding: str = 'latin1') -> bytearray:
    """Stand for ``bytearray``, which also takes a number of bytes to allocate."""
    return bytearray(content if type(content) is bytes else _bytes(content, encoding))


def _plain_tensor(make: Any, kind: Any, args: Any, state: Any) -> torch.Tensor:
    """Stand for the function that rebuilds tensors with attributes: without them."""
    utils = torch._utils
    if make not in (utils._rebuild_tensor_v2, getattr(utils, '_rebuild_tensor_v3', 0)):
        raise pickle.UnpicklingError(f'GLOBAL torch._tensor of {make!r}')
    return make(*args)


_STAND_INS: dict[str, Any] = {
    'numpy.ndarray': _Array,
    'numpy.dtype': _Dtype,
    'argparse.Namespace': argparse.Namespace,
    'mmengine.logging.history_buffer.HistoryBuffer': _History,
    'builtins.getattr': _history_method,
    'builtins.bytes': _bytes,  # none of them
    'builtins.bytearray': _bytearray,
    '_codecs.encode': _bytes,
    'torch.Tensor': _Kind,
    'torch._tensor._rebuild_from_type_v2': _plain_tensor,
}
for _package in ('core', '_core'):  # numpy 1 and 2 name its module otherwise
    _STAND_INS[f'numpy.{_package}.multiarray._reconstruct'] = _Array
    _STAND_INS[f'numpy.{_package}.multiarray.scalar'] = _scalar


def _version(text: str) -> tuple[int, ...]:
    """The first two numbers of a version."""
    return tuple(int(number) for number in text.split('.')[:2])


@contextlib.contextmanager
def harmless_globals() -> Iterator[None]:
    """Let ``torch.load(weights_only=True)`` know the stand-ins, and less of torch."""
    if _version(torch.__version__) < (2, 6):
        yield  # has no list of renamed globals
        return
    from torch import _weights_only_unpickler as unpickler

    kinds = set(torch._tensor_classes)  # called with a number, they allocate
    known = {
        name: value
        for name, value in unpickler._get_allowed_globals().items()
        if name.rpartition('.')[2] not in _BARRED and value not in kinds
    }
    known.update(_STAND_INS)
    named = [(value, name) for name, value in _STAND_INS.items()]
    with (
        mock.patch.object(unpickler, '_get_allowed_globals', lambda: known),
        torch.serialization.safe_globals(named),  # some versions ask only this list
    ):
        yield


def revive(content: Any, size: int) -> Any:
    """Put real values in the place of the stand-ins.

    Args:
        content (Any): What :func:`torch.load` made of a file, under
            :func:`harmless_globals`. Dicts and lists are changed in place.
        size (int): Bytes of the file.

    Returns:
        Any: The same with real values.

    Raises:
        UnpicklingError: If an array is none, or a tensor is larger than the file that
            it comes from.
    """
    done: dict[int, Any] = {}  # also ends circles, and walks what is shared once

    def walk(value: Any) -> Any:
        if id(value) in done:
            return done[id(value)]
        done[id(value)] = value
        if isinstance(value, (_Dtype, _Array, _History)):
            done[id(value)] = value.revive()
        elif isinstance(value, torch.Tensor):
            if value.numel() * value.element_size() > max(size, _ROOM):
                raise pickle.UnpicklingError(
                    f'a tensor of shape {tuple(value.shape)} in {size} bytes'
                )
        elif isinstance(value, dict):
            for key, item in value.items():
                value[key] = walk(item)
        elif isinstance(value, list):
            value[:] = [walk(item) for item in value]
        elif type(value) in (tuple, set):
            done[id(value)] = type(value)(walk(item) for item in value)
        elif isinstance(value, argparse.Namespace):
            walk(vars(value))
        return done[id(value)]

    return walk(content)
