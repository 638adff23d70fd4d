"""Schedules of a resumed run: those of the checkpoint, or those of its config."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from mmengine.optim import OptimWrapper
from mmengine.optim.scheduler.param_scheduler import _ParamScheduler

# Where a schedule stands, not what it is.
_PROGRESS = {'last_step', '_global_step', '_last_value', 'verbose', 'optimizer'}


def by_optimizer(schedulers: Any) -> dict[str, list[Any]]:
    """List schedules, or their states, by the name of their optimizer.

    Args:
        schedulers (Any): A runner's ``param_schedulers`` or a checkpoint's.

    Returns:
        dict[str, list]: '' is the name of a single optimizer; empty if there is none.
    """
    if isinstance(schedulers, Mapping):
        return {name: list(value) for name, value in schedulers.items()}
    return {'': list(schedulers)} if isinstance(schedulers, (list, tuple)) else {}


def is_rebuildable(scheduler: Any) -> bool:
    """Whether a schedule is built, and depends on steps alone."""
    return isinstance(scheduler, _ParamScheduler) and not getattr(
        scheduler, 'need_val_args', False
    )


def get_start(
    wrapper: OptimWrapper, schedulers: Sequence[_ParamScheduler]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Read where schedules begin; call it before their first step.

    Args:
        wrapper (OptimWrapper): The optimizer.
        schedulers (Sequence[_ParamScheduler]): Its schedules, just built.

    Returns:
        tuple[list[dict], list[dict]]: The scheduled values of each group of parameters,
        and the state of each schedule.
    """
    names = {scheduler.param_name for scheduler in schedulers}
    names |= {f'initial_{name}' for name in names}
    if any(getattr(scheduler, 'use_betas', False) for scheduler in schedulers):
        names.add('betas')
    groups = [
        {name: group[name] for name in names if name in group}
        for group in wrapper.param_groups
    ]
    states = [copy.deepcopy(scheduler.state_dict()) for scheduler in schedulers]
    return groups, states


def replay(
    wrapper: OptimWrapper,
    schedulers: Sequence[_ParamScheduler],
    start: tuple[list[dict[str, Any]], list[dict[str, Any]]],
    epochs: int,
    iterations: int,
    epoch_length: int,
) -> None:
    """Bring schedules from their start to where a run stands.

    Args:
        wrapper (OptimWrapper): The optimizer; its scheduled values are set.
        schedulers (Sequence[_ParamScheduler]): Its schedules.
        start (tuple): Of :func:`get_start`.
        epochs (int): Epochs that are complete.
        iterations (int): Iterations that are complete.
        epoch_length (int): Iterations of an epoch.
    """
    groups, states = start
    for group, values in zip(wrapper.param_groups, groups):
        group.update(values)
    for scheduler, state in zip(schedulers, states):
        scheduler.load_state_dict(copy.deepcopy(state))
    done = 0
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # there is no optimizer step in between
        for iteration in range(1, iterations + 1):
            _step(schedulers, by_epoch=False)
            if iteration % epoch_length == 0 and done < epochs:
                _step(schedulers, by_epoch=True)
                done += 1
        for _ in range(epochs - done):
            _step(schedulers, by_epoch=True)


def _step(schedulers: Sequence[_ParamScheduler], by_epoch: bool) -> None:
    for scheduler in schedulers:
        if scheduler.by_epoch == by_epoch:
            scheduler.step()


def differences(
    saved: Mapping[str, Any], fresh: Mapping[str, Any]
) -> dict[str, tuple[Any, Any]] | None:
    """Compare what two schedules are.

    Args:
        saved (Mapping): State of the checkpoint's.
        fresh (Mapping): State of that which the config makes.

    Returns:
        dict[str, tuple] | None: Both values of what differs; None if the two are of
        different kinds.
    """
    if saved.keys() - _PROGRESS != fresh.keys() - _PROGRESS:
        return None
    return {
        key: (saved[key], value)
        for key, value in fresh.items()
        if key not in _PROGRESS and saved[key] != value
    }


def describe(
    name: str, saved: Mapping[str, Any], found: Mapping[str, tuple[Any, Any]], end: int
) -> str:
    """Say in a sentence what follows where a schedule goes on as it was saved.

    Args:
        name (str): Of the schedule.
        saved (Mapping): Its state in the checkpoint.
        found (Mapping): Of :func:`differences`.
        end (int): Length of the training in what the schedule counts.

    Returns:
        str: The sentence.
    """
    values = ', '.join(
        f'{key}={_short(old)} (the config: {_short(new)})'
        for key, (old, new) in found.items()
    )
    unit = 'epoch' if saved['by_epoch'] else 'iteration'
    what = saved['param_name']
    after = f'it sets {what} to the end of the training'
    if saved['end'] < end:
        after = f'after {unit} {saved["end"]} of {end} {what} stays as it is then'
    return f'{name} goes on with {values}: {after}'


def _short(value: Any) -> str:
    """Show a value; of a list of equal numbers, one for each group, one."""
    if isinstance(value, Mapping):
        value = list(value)
    if isinstance(value, list) and value and all(v == value[0] for v in value):
        value = value[0]
    text = f'{value:g}' if isinstance(value, float) else repr(value)
    return text if len(text) < 60 else f'{text[:57]}…'
