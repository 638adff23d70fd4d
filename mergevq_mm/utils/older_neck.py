"""Weights of a ``SourceRecovery`` of before its codes had an order."""

from __future__ import annotations

import functools
import logging
from collections.abc import Mapping, MutableMapping

import torch
from torch import Tensor

from ..base.process import print_log

ORDER = 'order.weight'
# What every neck has had, to be told from another part with an ``order``.
_ALWAYS = ('query', 'key.weight', 'embed.0.weight')


def complete_older_neck(
    state_dict: MutableMapping[str, Tensor], expected: Mapping[str, Tensor]
) -> None:
    """Give the weights of an order-blind neck the layer that they lack, in place.

    Zeros in it leave the neck exactly what it was; a warning says so. Other weights
    are not touched.

    Args:
        state_dict (MutableMapping[str, Tensor]): About to be loaded.
        expected (Mapping[str, Tensor]): The model's tensors by name.
    """
    for name, own in expected.items():
        prefix = name.removesuffix(ORDER)
        if name in state_dict or prefix + ORDER != name:
            continue
        if any(prefix + other not in state_dict for other in _ALWAYS):
            continue
        weight = state_dict[prefix + 'key.weight']
        state_dict[name] = torch.zeros(
            own.shape, dtype=weight.dtype, device=weight.device
        )
        _tell()


@functools.cache  # once in a process
def _tell() -> None:
    print_log(
        'The weights of the SourceRecovery are of before it knew the order of the '
        'codes: it is loaded as it was, blind to the order, and predicts less than it '
        'could; train a new one for this tokenizer by '
        '`python tools/benchmarks/source_recovery.py CONFIG CHECKPOINT --epochs 20 '
        '--out FILE`.',
        logger='current',
        level=logging.WARNING,
    )
