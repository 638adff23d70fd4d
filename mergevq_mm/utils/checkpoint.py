"""Loading of weights, only if they fit.

Keys are counted against the module's, because weights of which none matches would
otherwise leave it random with a warning.
"""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from mmengine.logging import print_log
from torch import nn

from .checkpoint_file import (
    fetch_file,
    find_latest_checkpoint,
    load_checkpoint_file,
)
from .older_neck import complete_older_neck
from .published import TRAINING_ONLY

__all__ = [
    'LoadReport',
    'check_state_dict_matches',
    'fetch_file',
    'find_latest_checkpoint',
    'get_state_dict',
    'load_checkpoint_file',
    'load_pretrained',
    'normalize_keys',
    'plain_state_dict',
]

# What training scripts wrap around the weights, outermost first.
_CONTAINERS = ('state_dict', 'model', 'model_state_dict', 'teacher', 'weights')
# Segments that wrappers (DDP, torch.compile) put into keys, and leading ones.
_WRAPPERS = ('module', '_orig_mod')
_LEADING = ('model.', 'ema_model.', 'model_ema.', 'ema.')


class LoadReport(NamedTuple):
    """What :func:`load_pretrained` did.

    Attributes:
        matched (list[str]): The module's keys that were loaded.
        missing (list[str]): The module's keys that the checkpoint lacks.
        unexpected (list[str]): The checkpoint's keys that the module lacks.
    """

    matched: list[str]
    missing: list[str]
    unexpected: list[str]


def get_state_dict(checkpoint: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """Take the weights out of what training scripts save around them.

    Args:
        checkpoint (Mapping): Content of a checkpoint file.

    Returns:
        dict[str, Tensor]: The tensors by name; empty if there are none.
    """
    for name in _CONTAINERS:
        if isinstance(checkpoint.get(name), Mapping):
            checkpoint = checkpoint[name]
    return {k: v for k, v in checkpoint.items() if isinstance(v, torch.Tensor)}


def plain_state_dict(module: nn.Module) -> dict[str, Any]:
    """A module's state under the names that it has without distributed wrappers.

    Args:
        module (nn.Module): Itself or its parts may be wrapped.

    Returns:
        dict[str, Any]: Names and values; nothing is copied.
    """
    from mmengine.runner.checkpoint import get_state_dict as unwrapped_state

    return unwrapped_state(module)


def normalize_keys(
    state_dict: Mapping[str, torch.Tensor], expected: Mapping[str, Any]
) -> dict[str, torch.Tensor]:
    """Strip the prefixes of wrappers from keys that do not match as they are.

    What a neck of before lacks is added, see :func:`complete_older_neck`.

    ``module.`` and ``_orig_mod.`` go wherever they stand (``backbone.module.x`` comes
    from separate DDP wrappers), ``model.`` and the EMA prefixes go at the front, each
    only if more keys match after it.

    Args:
        state_dict (Mapping[str, Tensor]): The weights found.
        expected (Mapping): A mapping with the keys wanted.

    Returns:
        dict[str, Tensor]: The weights under the names that match best.
    """
    best = dict(state_dict)
    unwrapped = {}
    for key, value in best.items():
        if key not in expected:
            key = '.'.join(part for part in key.split('.') if part not in _WRAPPERS)
        unwrapped.setdefault(key, value)
    options = [unwrapped]
    for lead in _LEADING:
        options.append(
            {k[len(lead) :]: v for k, v in unwrapped.items() if k.startswith(lead)}
        )
    for option in options:
        if len(option.keys() & expected.keys()) > len(best.keys() & expected.keys()):
            best = option
    complete_older_neck(best, expected)
    return best


def load_pretrained(
    module: nn.Module,
    checkpoint: str | os.PathLike | Mapping[str, Any],
    prefix: str = '',
    min_matched: float = 0.5,
    trust: bool = False,
) -> LoadReport:
    """Load weights into a module and refuse those that do not belong to it.

    Args:
        module (nn.Module): The module to fill. It may adapt tensors on load (for
            example resize a position embedding) by a ``state_dict`` pre-hook.
        checkpoint (str | PathLike | Mapping): Path, URL, or content of a checkpoint.
        prefix (str): Take only keys that start with it, and strip it, for example
            'backbone.'. Defaults to ''.
        min_matched (float): Smallest share of the module's keys that must be found,
            in (0, 1]. Defaults to 0.5.
        trust (bool): See :func:`load_checkpoint_file`. Defaults to False.

    Returns:
        LoadReport: Keys matched, missing and unexpected.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If the file cannot be read, too few keys match, or a tensor has
            another shape than the module's.
    """
    source = 'the given weights'
    if not isinstance(checkpoint, Mapping):
        source = f'"{checkpoint}"'
        checkpoint = load_checkpoint_file(checkpoint, trust=trust)
    expected = module.state_dict()
    found = get_state_dict(checkpoint)
    state_dict = normalize_keys(_take_prefix(found, prefix), expected)
    matched = [key for key in expected if key in state_dict]
    needed = max(1, min_matched * len(expected))
    if expected and len(matched) < needed:
        raise ValueError(
            f'Checkpoint {source} fills {len(matched)} of the {len(expected)} keys of '
            f'{type(module).__name__} (prefix={prefix!r}, at least {needed:.0f} '
            f'needed): expected keys like {_few(expected)} but found {_few(found)}; '
            'give another checkpoint or prefix.'
        )
    report = LoadReport(
        matched,
        [key for key in expected if key not in state_dict],
        [key for key in state_dict if key not in expected],
    )
    try:
        module.load_state_dict(state_dict, strict=False)
    except RuntimeError as error:
        raise ValueError(
            f'Checkpoint {source} does not fit {type(module).__name__}: '
            f'{_first_reason(error)}; give one of the same architecture.'
        ) from error
    _log_report(module, source, report)
    return report


def _take_prefix(
    state_dict: Mapping[str, torch.Tensor], prefix: str
) -> dict[str, torch.Tensor]:
    """Keep the keys under a prefix, also where wrappers stand before or in it."""
    if not prefix:
        return dict(state_dict)
    wrapped = '|'.join(f'{name}[.]' for name in _WRAPPERS)
    parts = [re.escape(part) for part in prefix.rstrip('.').split('.')]
    pattern = re.compile(
        f'(?:{wrapped})*'
        + '[.]'.join(parts[:1])
        + ''.join(f'[.](?:{wrapped})*{part}' for part in parts[1:])
        + '[.]'
    )
    matches = ((pattern.match(key), value) for key, value in state_dict.items())
    return {m.string[m.end() :]: value for m, value in matches if m}


def _few(keys: Mapping[str, Any], count: int = 3) -> str:
    """Show the first keys of a mapping."""
    names = ', '.join(list(keys)[:count])
    return (names + ', …' if len(keys) > count else names) or 'none'


def _in_run() -> bool:
    """Whether a run has made a logger; mmengine makes one of its own name unasked."""
    loaded = sys.modules.get('mmengine.logging')
    return bool(loaded and set(loaded.MMLogger._instance_dict) - {'mmengine'})


def _log_report(module: nn.Module, source: str, report: LoadReport) -> None:
    """Log what was loaded in one line; of a whole model, in a run alone."""
    if not (report.missing or report.unexpected or _in_run()):
        return  # somebody draws or encodes, and all is as it should be
    text = f'Loaded {len(report.matched)} tensors from {source} into '
    text += type(module).__name__
    for name in ('missing', 'unexpected'):
        keys = getattr(report, name)
        if keys:
            text += f'; {len(keys)} {name} ({_few(dict.fromkeys(keys))})'
    print_log(text + '.', logger='current')


def check_state_dict_matches(
    module: nn.Module,
    checkpoint: dict[str, Any],
    source: str = 'The checkpoint',
    complete: bool = False,
) -> None:
    """Normalise the keys of a checkpoint to a model's, and refuse one of another model.

    mmengine's ``load_from`` and ``test.py`` load non-strictly: what does not fit stays
    random, with a warning. Here it is an error.

    Args:
        module (nn.Module): The model about to be filled.
        checkpoint (dict): Content of a checkpoint; its ``state_dict`` is replaced.
        source (str): How to name it in the error. Defaults to 'The checkpoint'.
        complete (bool): Whether everything but the parts that only training needs has
            to be there, as in a test. Defaults to False: what is missing (a new head)
            is counted in a warning.

    Raises:
        ValueError: If no key matches, a tensor has another shape, or with ``complete``
            one is missing.
    """
    expected = plain_state_dict(module)
    found = get_state_dict(checkpoint)
    state_dict = normalize_keys(found, expected)
    kind = type(module).__name__
    if expected and not (state_dict.keys() & expected.keys()):
        raise ValueError(
            f'{source} fills none of the {len(expected)} keys of {kind}: expected keys '
            f'like {_few(expected)} but found {_few(found)}; give a checkpoint of this '
            'model.'
        )
    _check_shapes(module, state_dict, source)
    missing = [
        key
        for key in expected
        if key not in state_dict and not key.endswith('num_batches_tracked')
    ]
    needed = [key for key in missing if not key.startswith(TRAINING_ONLY)]
    if complete and needed:
        raise ValueError(
            f'{source} lacks {len(needed)} of the {len(expected)} keys of {kind} '
            f'({_few(dict.fromkeys(needed))}), which would stay random; give a '
            'checkpoint of this model, or the config that it was trained with.'
        )
    if missing:
        print_log(
            f'{source} lacks {len(missing)} of the {len(expected)} keys of {kind} '
            f'({_few(dict.fromkeys(missing))}); they keep their initial values.',
            logger='current',
            level=logging.WARNING,
        )
    if state_dict.keys() != found.keys() or 'state_dict' not in checkpoint:
        checkpoint['state_dict'] = state_dict


def _check_shapes(
    module: nn.Module, state_dict: Mapping[str, torch.Tensor], source: str
) -> None:
    """Refuse tensors of another shape, unless the module itself adapts them."""
    given = {}  # under the module's own names, which wrappers may have changed
    for key, value in module.state_dict().items():
        plain = '.'.join(part for part in key.split('.') if part not in _WRAPPERS)
        other = state_dict.get(plain, state_dict.get(key))
        if other is not None and isinstance(value, torch.Tensor):
            given[key] = (other, other.shape == value.shape)
    if all(same for _, same in given.values()):
        return
    try:  # position embeddings are resized by hooks, which only loading calls
        module.load_state_dict({k: other for k, (other, _) in given.items()}, False)
    except RuntimeError as error:
        raise ValueError(
            f'{source} does not fit {type(module).__name__}: {_first_reason(error)}; '
            'give one of the same architecture, or the config that it was trained with.'
        ) from error


def _first_reason(error: RuntimeError) -> str:
    """The first line of torch's list of what does not fit."""
    lines = str(error).splitlines()
    return lines[min(1, len(lines) - 1)].strip().rstrip('.')
