"""Gradient accumulation that a checkpoint cuts in two.

An epoch need not end with an optimizer step: 10,009 batches of ImageNet, two of them a
step, leave one batch's gradients waiting. mmengine neither saves them nor the count of
batches, which also falls behind the iteration where a side starts late or skips a
batch. Both are saved here, the gradients only where some are waiting.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from mmengine.dist import all_reduce
from mmengine.optim import OptimWrapper, OptimWrapperDict
from torch import nn


def each_wrapper(
    optim_wrapper: OptimWrapper | OptimWrapperDict,
) -> Iterator[tuple[str, OptimWrapper]]:
    """List the wrappers of a run.

    Args:
        optim_wrapper (OptimWrapper | OptimWrapperDict): One or several.

    Yields:
        tuple[str, OptimWrapper]: Name ('' for a single one) and wrapper.
    """
    if isinstance(optim_wrapper, OptimWrapperDict):
        yield from optim_wrapper.items()
    else:
        yield '', optim_wrapper


def _parameters(wrapper: OptimWrapper) -> list[nn.Parameter]:
    """The parameters of a wrapper's optimizer, in its order."""
    return [p for group in wrapper.optimizer.param_groups for p in group['params']]


@torch.no_grad()
def get_accumulation(
    optim_wrapper: OptimWrapper | OptimWrapperDict,
) -> dict[str, dict[str, Any]]:
    """Read counts and waiting gradients. Has to be called on every rank.

    Ranks wait with gradients of their own; their mean is kept, which leads to the same
    mean in the end.

    Args:
        optim_wrapper (OptimWrapper | OptimWrapperDict): Of the run.

    Returns:
        dict[str, dict]: For each wrapper that accumulates, ``every`` and ``count``
        (batches a step, batches so far) and ``gradients`` (a tensor or None for each
        parameter; empty if none is waiting).
    """
    found = {}
    for name, wrapper in each_wrapper(optim_wrapper):
        every = getattr(wrapper, '_accumulative_counts', 1)
        if every == 1:
            continue
        gradients = []
        if not wrapper.should_update():
            for parameter in _parameters(wrapper):
                gradient = parameter.grad
                if gradient is not None:
                    gradient = gradient.clone()
                    all_reduce(gradient, op='mean')
                    gradient = gradient.cpu()
                gradients.append(gradient)
        found[name] = dict(every=every, count=wrapper._inner_count, gradients=gradients)
    return found


@torch.no_grad()
def set_accumulation(
    optim_wrapper: OptimWrapper | OptimWrapperDict, saved: dict[str, dict[str, Any]]
) -> None:
    """Go on with saved counts and gradients.

    A wrapper that accumulates another number of batches than the saved one starts
    afresh, from the count that it has.

    Args:
        optim_wrapper (OptimWrapper | OptimWrapperDict): Of the run.
        saved (dict[str, dict]): A value of :func:`get_accumulation`.
    """
    for name, wrapper in each_wrapper(optim_wrapper):
        state = saved.get(name)
        if state is None or state['every'] != wrapper._accumulative_counts:
            continue
        wrapper._inner_count = state['count']
        for parameter, gradient in zip(_parameters(wrapper), state['gradients']):
            if gradient is not None:
                parameter.grad = gradient.to(parameter)
