"""What a checkpoint must hold to be resumed from.

mmengine takes what is there: without an optimizer's state a run is resumed in silence
with a new one, and a name that is missing deeper down is a KeyError.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from mergevq_mm.utils.checkpoint_format import MARK

_NUMBER, _LIST, _DICT = int, (list, tuple), Mapping
_OPTIMIZER = {'state': _DICT, 'param_groups': [{'params': _LIST}]}
# A type, a dict of what is needed in it, or a list of one of them for its items.
_BY_ALL = {'state_dict': _DICT, 'meta': {'epoch': _NUMBER, 'iter': _NUMBER}}
_BY_US = {
    'message_hub': _DICT,
    'rng_states': [{'python': _LIST, 'numpy': _LIST, 'torch': Tensor}],
    'accumulation': _DICT,
    'data_state': {
        'batches': _NUMBER,
        'batch_size': _NUMBER,
        'world_size': _NUMBER,
        'accumulate': _NUMBER,
        'length': (_NUMBER, type(None)),
        'seed': (_NUMBER, type(None)),
    },
    'run_config': _DICT,
}
_ACCUMULATION = {'every': _NUMBER, 'count': _NUMBER, 'gradients': _LIST}
_REMEDY = 'start a new run with load_from and without resume.'


def check_resumable(checkpoint: Mapping[str, Any], schedules: bool) -> None:
    """Refuse a checkpoint that is not the whole state of a run.

    One of mmengine's own hook needs no more than mmengine takes from it.

    Args:
        checkpoint (Mapping): As read from the file.
        schedules (bool): Whether the run has schedules.

    Raises:
        ValueError: If the state of an optimizer or of the schedules is missing, or
            something in it is missing or of another type than was written.
    """
    kept = {'optimizer': 'the optimizers'}
    if schedules:
        kept['param_schedulers'] = 'the schedules'
    for name, what in kept.items():
        if not checkpoint.get(name):
            raise ValueError(
                f'resume: the checkpoint has no state of {what} ("{name}"), as those '
                'of the best metrics and of save_optimizer=False or '
                'save_param_scheduler=False have not; resume from a regular one, or '
                f'{_REMEDY}'
            )
    needed: dict[str, Any] = dict(_BY_ALL)
    if MARK in checkpoint:
        needed.update(_BY_US)
        if isinstance(checkpoint.get('accumulation'), Mapping):
            sides = checkpoint['accumulation']
            needed['accumulation'] = dict.fromkeys(sides, _ACCUMULATION)
    saved = checkpoint['optimizer']
    several = isinstance(saved, Mapping) and 'param_groups' not in saved
    needed['optimizer'] = dict.fromkeys(saved, _OPTIMIZER) if several else _OPTIMIZER
    problem = _misfit(checkpoint, needed, '')
    if problem is not None:
        raise ValueError(
            f'resume: the checkpoint {problem}: it was altered, or is of another '
            f'program; resume from another one, or {_REMEDY}'
        )


def _misfit(value: Any, needed: Any, where: str) -> str | None:
    """Say what is missing in a value, or of another type; None if nothing is."""
    if isinstance(needed, dict):
        if not isinstance(value, Mapping):
            return _other(value, where)
        for key, inner in needed.items():
            name = f'{where}.{key}' if where else key
            if key not in value:
                return f'lacks "{name}"'
            problem = _misfit(value[key], inner, name)
            if problem is not None:
                return problem
        return None
    if isinstance(needed, list):
        if not isinstance(value, Sequence) or isinstance(value, str) or not value:
            return _other(value, where)
        found = (_misfit(x, needed[0], f'{where}.{i}') for i, x in enumerate(value))
        return next((problem for problem in found if problem is not None), None)
    return None if isinstance(value, needed) else _other(value, where)


def _other(value: Any, where: str) -> str:
    return f'has a {type(value).__name__} at "{where}" that does not belong there'
