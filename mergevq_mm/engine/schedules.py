"""Schedules that follow the length of a training."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, NamedTuple

from mergevq_mm.utils.schedule_length import COUNTS


class Length(NamedTuple):
    """How long a training is.

    Attributes:
        iterations (int): Of all epochs.
        epochs (int): 1 for a training that counts iterations.
        epoch (int): Iterations of an epoch.
    """

    iterations: int
    epochs: int
    epoch: int


def fit_schedules(
    schedulers: Any, length: Length, ratio: float = 1.0
) -> tuple[Any, list[str]]:
    """Stretch schedules to a training and leave out those that would never act.

    Stretched schedules count iterations, so that a warm-up of one epoch in eighteen is
    an eighteenth of a training of one epoch too. With a ratio of 1 what acts stays as
    it is.

    Args:
        schedulers (Any): ``param_scheduler`` of a config: a dict, a list of them, or
            such lists by optimizer.
        length (Length): Of the training.
        ratio (float): See :func:`~mergevq_mm.utils.schedule_length.schedule_ratio`.
            Defaults to 1.0.

    Returns:
        tuple[Any, list[str]]: The schedules, of the same structure (a single one in a
        list), and a sentence for each that was changed or has a part that never acts.
    """
    if isinstance(schedulers, Mapping) and 'type' not in schedulers:
        fitted, notes = {}, []
        for name, value in schedulers.items():
            fitted[name], found = fit_schedules(value, length, ratio)
            notes += [f'{name}: {note}' for note in found]
        return fitted, notes
    fitted_list: list[Any] = []
    notes = []
    single = not isinstance(schedulers, (list, tuple))
    for schedule in [schedulers] if single else schedulers:
        if isinstance(schedule, Mapping):
            schedule, note = _fit(copy.deepcopy(dict(schedule)), length, ratio)
            notes += [note] if note else []
        if schedule is not None:
            fitted_list.append(schedule)
    return fitted_list, notes


def _fit(
    schedule: dict[str, Any], length: Length, ratio: float
) -> tuple[dict[str, Any] | None, str]:
    """Stretch one schedule; None where it never acts. With a sentence, or ''."""
    written = {k: schedule[k] for k in COUNTS if schedule.get(k) is not None}
    name = schedule['type']
    name = name if isinstance(name, str) else name.__name__
    note = ''
    if ratio != 1.0 and written:
        schedule = _stretch(schedule, written, length, ratio)
        changes = [
            f'{key}={written[key]} becomes {_in_units(schedule[key], length)}'
            for key in written
            if written[key] != 0
        ]
        note = f'{name} follows the length of the training: {", ".join(changes)}.'
    unit, total = 'iterations', length.iterations
    if schedule.get('by_epoch', True):
        unit, total = 'epochs', length.epochs
    begin = schedule.get('begin', 0)
    if begin >= total or schedule.get('end', total) <= begin:
        return None, f'{name} never acts and is left out: {_why(begin, total, unit)}'
    late = [n for n in schedule.get('milestones', ()) if n >= total]
    if late:
        note = f'{name} never reaches its milestones {late}: {_why(0, total, unit)}'
    return schedule, note


def _why(begin: int, total: int, unit: str) -> str:
    start = f'it begins after {begin} {unit}, and ' if begin else ''
    return f'{start}the training has {total} {unit}; set param_scheduler for it.'


def _stretch(
    schedule: dict[str, Any], written: dict[str, Any], length: Length, ratio: float
) -> dict[str, Any]:
    """Count in iterations of a training that is another length."""
    unit = ratio * (length.epoch if schedule.get('by_epoch', True) else 1)

    def scaled(value: Any) -> Any:
        if isinstance(value, (list, tuple)):
            return [scaled(item) for item in value]
        return max(round(value * unit), min(value, 1))

    schedule.pop('convert_to_iter_based', None)
    return {
        **schedule,
        **{key: scaled(value) for key, value in written.items()},
        'by_epoch': False,
    }


def _in_units(value: Any, length: Length) -> str:
    """A number of iterations, with that of epochs where the training has several."""
    if isinstance(value, list):
        return f'[{", ".join(_in_units(item, length) for item in value)}]'
    if length.epochs < 2:
        return f'{value} iterations'
    return f'{value / length.epoch:.3g} epochs'
