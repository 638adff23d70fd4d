"""Settings given on the command line: merged into a config if anything reads them.

Variables of a config file (``data_root``, a pipeline, an optimizer of two sides) have
done their work once the file is read. mmengine would change them and nothing else; here
they are refused, with the settings that they have become.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from mmengine.config import Config

# The sections of a config, as mmengine's runner reads them.
SECTIONS = (
    'auto_scale_lr',
    'custom_hooks',
    'data_preprocessor',
    'default_hooks',
    'default_scope',
    'env_cfg',
    'load_from',
    'log_level',
    'log_processor',
    'model',
    'model_wrapper_cfg',
    'optim_wrapper',
    'param_scheduler',
    'randomness',
    'resume',
    'test_cfg',
    'test_dataloader',
    'test_evaluator',
    'train_cfg',
    'train_dataloader',
    'val_cfg',
    'val_dataloader',
    'val_evaluator',
    'visualizer',
    'work_dir',
)
# With what it reads besides, where a config has it.
RUNNER_KEYS = (
    *SECTIONS,
    'activation_checkpointing',
    'compile',
    'efficient_conv_bn_eval',
    'experiment_name',
    'find_unused_parameters',
    'launcher',
    'runner_type',
    'strategy',
    'sync_bn',
    'tta_model',
    'tta_pipeline',
)
_SHOWN = 4  # settings that a message names


def merge_options(
    cfg: Config,
    options: Mapping[str, Any] | None,
    reads: Iterable[str] = RUNNER_KEYS,
) -> None:
    """Merge ``--cfg-options`` into a config.

    Args:
        cfg (Config): The config; changed in place.
        options (Mapping[str, Any], optional): Values by dotted key.
        reads (Iterable[str]): First parts of the keys that the tool reads, or longer
            beginnings of keys. Defaults to those of mmengine's runner.

    Raises:
        ValueError: If nothing reads a key, or it leads through something that has no
            keys.
    """
    if not options:
        return
    reads = tuple(reads)
    for key in options:
        if not any(_begins(key, name) for name in reads):
            raise ValueError(_without_effect(cfg, key, reads))
    try:
        cfg.merge_from_dict(dict(options))
    except (KeyError, TypeError, IndexError) as error:
        message = str(error).strip('"\'')
        raise ValueError(f'--cfg-options cannot be merged: {message}') from error


def _begins(key: str, name: str) -> bool:
    """Whether a dotted key is a name, lies in it or around it."""
    a, b = f'{key}.', f'{name}.'
    return a.startswith(b) or b.startswith(a)


def _without_effect(cfg: Config, key: str, reads: tuple[str, ...]) -> str:
    """Say what to write in the place of a key that nothing reads."""
    root = key.partition('.')[0]
    settings = dict(_walk({k: cfg[k] for k in cfg if _is_read(k, reads)}))
    settings = {k: v for k, v in settings.items() if _is_read(k, reads)}
    sections = ', '.join(reads[:8]) + (', …' if len(reads) > 8 else '')
    remedy = f'choose a setting that begins with {sections}'
    if root in RUNNER_KEYS:
        problem, found = 'this tool does not read', []
    elif root in cfg:
        problem = 'only the config file itself reads the variable'
        found = _same_value(cfg, key, settings)
        remedy = 'change it in the file, or set what it has become there'
    else:
        problem, found = 'nothing reads', _similar_name(key, settings, reads)
    if found:
        more = f' (and {len(found) - _SHOWN} more)' if len(found) > _SHOWN else ''
        remedy = f'set {", ".join(found[:_SHOWN])}{more}'
    return f'--cfg-options {key}: {problem} {root}; {remedy}.'


def _is_read(key: str, reads: tuple[str, ...]) -> bool:
    return any(_begins(key, name) for name in reads)


def _walk(value: Any, key: str = '') -> Iterator[tuple[str, Any]]:
    """All settings below a value, by dotted key, containers before their content."""
    items: Iterable[tuple[Any, Any]] = ()
    if isinstance(value, Mapping):
        items = value.items()
    elif isinstance(value, (list, tuple)):
        items = enumerate(value)
    for name, item in items:
        path = f'{key}.{name}' if key else str(name)
        yield path, item
        yield from _walk(item, path)


def _same_value(cfg: Config, key: str, settings: Mapping[str, Any]) -> list[str]:
    """Settings that hold the variable's value, under the rest of the key.

    A variable may be a part of what became of it, and the key may go into it: the
    longest beginning of the key whose value is found elsewhere counts.
    """
    parts = key.split('.')
    variables = dict(_walk({parts[0]: cfg.get(parts[0])})) if parts[0] in cfg else {}
    for length in range(1, len(parts) + 1):
        begin, rest = '.'.join(parts[:length]), parts[length:]
        value = variables.get(begin)
        same = [k for k, v in settings.items() if v == value]
        if not _is_telling(value):
            same = [k for k in same if length == 1 and k.endswith(f'.{begin}')]
        if same:
            return ['.'.join([k, *rest]) for k in same]
    return []


def _is_telling(value: Any) -> bool:
    """Whether a value is unlikely to stand in two places by chance."""
    if isinstance(value, str):
        return len(value) > 3
    return isinstance(value, (Mapping, list, tuple)) and len(value) > 0


def _similar_name(
    key: str, settings: Mapping[str, Any], reads: tuple[str, ...]
) -> list[str]:
    """Settings whose last name is that of the key, or nearly."""
    wanted = key.rpartition('.')[2]
    names = {k.rpartition('.')[2] for k in settings} | set(reads)
    candidates = (
        [wanted] if wanted in names else [],
        [name for name in names if name.endswith(f'_{wanted}')],
        difflib.get_close_matches(wanted, sorted(names), 1, 0.75),
    )
    for chosen in candidates:
        found = [k for k in settings if k.rpartition('.')[2] in chosen]
        found += [name for name in reads if name in chosen and name not in found]
        if found:
            return found
    return []
