"""Mistakes in a config, found before anything is built.

mmengine finds a misspelt key when it builds the part that has it: in a long traceback,
or never, where a default silently takes its place. Here the whole config is read once,
each type is looked up and each key compared with what that type takes.
"""

from __future__ import annotations

import difflib
import inspect
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from mmengine.config import Config
from mmengine.hooks import CheckpointHook
from mmengine.registry import DefaultScope, Registry, init_default_scope, root
from mmengine.runner import Runner

from .compat.missing import remedy
from .config_options import SECTIONS

# Part of a key -> registry of the types below it; the last one that fits counts.
_SECTIONS = {
    'model': 'MODELS',
    'data_preprocessor': 'MODELS',
    'train_dataloader': 'DATASETS',
    'val_dataloader': 'DATASETS',
    'test_dataloader': 'DATASETS',
    'dataset': 'DATASETS',
    'datasets': 'DATASETS',
    'pipeline': 'TRANSFORMS',
    'transforms': 'TRANSFORMS',
    'sampler': 'DATA_SAMPLERS',
    'batch_sampler': 'DATA_SAMPLERS',
    'collate_fn': 'FUNCTIONS',
    'worker_init_fn': 'FUNCTIONS',
    'val_evaluator': 'METRICS',
    'test_evaluator': 'METRICS',
    'metrics': 'METRICS',
    'default_hooks': 'HOOKS',
    'custom_hooks': 'HOOKS',
    'optim_wrapper': 'OPTIM_WRAPPERS',
    'optimizer': 'OPTIMIZERS',
    'param_scheduler': 'PARAM_SCHEDULERS',
    'train_cfg': 'LOOPS',
    'val_cfg': 'LOOPS',
    'test_cfg': 'LOOPS',
    'visualizer': 'VISUALIZERS',
    'vis_backends': 'VISBACKENDS',
    'model_wrapper_cfg': 'MODEL_WRAPPERS',
    'log_processor': 'LOG_PROCESSORS',
    'extractor': 'MODELS',
    'network': 'MODELS',
    'classifier': 'MODELS',
}
# All of mmengine's registries; those below a section may be of any of them.
_REGISTRIES = sorted(
    name for name, value in vars(root).items() if isinstance(value, Registry)
)
# Keys that those who build a part take out before, by registry.
_TAKEN = {
    'HOOKS': {'priority'},
    'PARAM_SCHEDULERS': {'convert_to_iter_based', 'by_epoch', 'verbose'},
    'OPTIM_WRAPPERS': {'constructor', 'paramwise_cfg', 'modules', 'optimizer'},
    'LOOPS': {'by_epoch'},
}
# A key that nearly equals a setting that is absent is a slip.
_TOP = ('custom_imports', *SECTIONS)
_LOADER_KEYS = {'dataset', 'num_batch_per_epoch', 'seed'}
# Settings without a type, and what they may hold.
_PLAIN = {
    'auto_scale_lr': {'enable', 'base_batch_size'},
    'env_cfg': {'cudnn_benchmark', 'dist_cfg', 'mp_cfg', 'resource_limit'},
    'randomness': {'seed', 'diff_rank_seed', 'deterministic'},
}
# mmengine's loops where a config names none; that of a training depends on by_epoch.
_LOOPS = {
    'train_cfg': 'EpochBasedTrainLoop',
    'val_cfg': 'ValLoop',
    'test_cfg': 'TestLoop',
}


def check_config(cfg: Config) -> None:
    """Refuse a config with misspelt keys or types that do not exist.

    Parts whose type takes any key are not looked into, nor are sections that only name
    layers (``norm_cfg`` and the like).

    Args:
        cfg (Config): The config, with its custom imports done.

    Raises:
        ValueError: At the first mistake, with the key and the nearest right name.
    """
    for key in cfg:
        near = difflib.get_close_matches(key, _TOP, 1, 0.85)
        if near and key not in _TOP and near[0] not in cfg:
            raise ValueError(
                f'{key} is not a setting of the runner; did you mean {near[0]}?'
            )
    _check_sides(cfg.get('optim_wrapper') or {})
    # Types without a scope are those of the config's.
    known = DefaultScope._instance_dict.copy()
    try:
        init_default_scope(cfg.get('default_scope') or 'mmengine')
        for name in _TOP:
            value = cfg.get(name)
            if isinstance(value, (Mapping, list, tuple)):
                _check(value, name, _SECTIONS.get(name))
    finally:
        DefaultScope._instance_dict.clear()
        DefaultScope._instance_dict.update(known)


def _check_sides(wrapper: Mapping[str, Any]) -> None:
    """Refuse the setting of one optimizer where each side has its own."""
    sides = [
        name
        for name, value in wrapper.items()
        if isinstance(value, Mapping) and 'optimizer' in value
    ]
    if sides and 'optimizer' in wrapper:
        remedy = ' and '.join(f'optim_wrapper.{name}.optimizer' for name in sides)
        raise ValueError(
            f'optim_wrapper.optimizer is that of none of the sides; set {remedy}.'
        )


def _check(value: Any, key: str, section: str | None) -> None:
    """Check a value and those in it."""
    if isinstance(value, (list, tuple)):
        for i, item in enumerate(value):
            if isinstance(item, (Mapping, list, tuple)):
                _check(item, f'{key}.{i}', section)
        return
    if not isinstance(value, Mapping):
        return
    name = key.rpartition('.')[2]
    if name.endswith('_dataloader') and '.' not in key:
        _check_keys(value, key, 'a data loader', _loader_keys())
    if key in _PLAIN:
        _check_keys(value, key, key, _PLAIN[key])
    if key in _LOOPS and 'type' not in value:
        loop = _LOOPS[key]
        if not value.get('by_epoch', True):
            loop = 'IterBasedTrainLoop'
        value = {**value, 'type': f'mmengine.{loop}'}
    if 'type' in value and section is not None:
        _check_type(value, key, section)
    for inner, item in value.items():
        # Initializers name layers and take keys of their own; some are no registry's.
        if isinstance(item, (Mapping, list, tuple)) and inner != 'init_cfg':
            _check(item, f'{key}.{inner}', _SECTIONS.get(inner, section))


def _loader_keys() -> set[str]:
    """What a data loader's config may hold."""
    from torch.utils.data import DataLoader

    return set(inspect.signature(DataLoader.__init__).parameters) | _LOADER_KEYS


def _check_type(value: Mapping[str, Any], key: str, section: str) -> None:
    """Look a type up and compare the keys beside it with what it takes."""
    kind = value['type']
    found = (
        _find(kind, section, value.get('_scope_')) if isinstance(kind, str) else kind
    )
    if found is None:
        missing = remedy(kind.partition('.')[0])
        if missing is not None:
            raise ValueError(f'{key}.type="{kind}" cannot be found: {missing}')
        near = difflib.get_close_matches(kind, _names(kind, section), 1, 0.6)
        hint = f'did you mean "{near[0]}"?' if near else 'check its name and scope.'
        raise ValueError(f'{key}.type="{kind}" does not exist; {hint}')
    if key.rpartition('.')[2].endswith(('_cfg', 'norm', 'act')) and '.' in key:
        return
    accepted = accepted_keys(found)
    if accepted is not None:
        accepted |= _TAKEN.get(section, set())
        name = getattr(found, '__name__', str(found))
        _check_keys(value, key, name, accepted)


def _check_keys(
    value: Mapping[str, Any], key: str, name: str, accepted: set[str]
) -> None:
    """Refuse a key that is not among those accepted."""
    for inner in value:
        if inner in accepted or inner in ('type', '_scope_', '_delete_'):
            continue
        near = difflib.get_close_matches(str(inner), sorted(accepted), 1, 0.6)
        hint = (
            f'did you mean {near[0]}?'
            if near
            else f'choose from {", ".join(sorted(accepted))}.'
        )
        raise ValueError(f'{key}.{inner} is not known to {name}; {hint}')


def _registry(section: str) -> Registry:
    return getattr(root, section)


def _find(kind: str, section: str, scope: str | None) -> Any:
    """Find a type in the registry of its section, or in any other."""
    for name in [section, *(other for other in _REGISTRIES if other != section)]:
        with _registry(name).switch_scope_and_registry(scope) as registry:
            found = _get(registry, kind)
        if found is not None:
            return found
    # Registries without a parent, such as mmpretrain's of batch augmentations.
    current = DefaultScope.get_current_instance()
    for package in (kind.partition('.')[0], scope, current and current.scope_name):
        for registry in vars(sys.modules.get(f'{package}.registry', object)).values():
            if isinstance(registry, Registry):
                found = _get(registry, kind.rpartition('.')[2])
                if found is not None:
                    return found
    return None


def _get(registry: Registry, kind: str) -> Any:
    try:
        return registry.get(kind)
    except Exception:  # a name that mmengine cannot even look up
        return None


def _names(kind: str, section: str) -> list[str]:
    """Names of a registry that a misspelt type may have meant, with its scope."""
    scope, dot, _ = kind.rpartition('.')
    found = []
    with _registry(section).switch_scope_and_registry(scope or None) as registry:
        current: Registry | None = registry
        while current is not None:
            found += [f'{scope}{dot}{name}' for name in current.module_dict]
            current = None if dot else current.parent
    return found


def _constructors(kind: Any) -> Iterator[Any]:
    """The functions through which a type's arguments pass, outermost first."""
    if not inspect.isclass(kind):
        yield kind
        return
    for base in kind.__mro__:
        if '__init__' in vars(base):
            yield vars(base)['__init__']


def accepted_keys(kind: Any) -> set[str] | None:
    """Names of the arguments that a type takes.

    ``**kwargs`` are followed up where they go to the base class alone.

    Args:
        kind (Any): A class or a function.

    Returns:
        set[str] | None: The names; None if any name may be given.
    """
    names: set[str] = set()
    if inspect.isclass(kind) and issubclass(kind, CheckpointHook):
        # Its `**kwargs` wait for the first save.
        known = (CheckpointHook.__init__, Runner.save_checkpoint)
        names = {name for call in known for name in inspect.signature(call).parameters}
        return names - {'self', 'kwargs'}
    for constructor in _constructors(kind):
        try:
            parameters: Iterable = inspect.signature(constructor).parameters.values()
        except (TypeError, ValueError):  # built in
            return None
        open_end = False
        for parameter in parameters:
            if parameter.kind is parameter.VAR_KEYWORD:
                open_end = True
            elif parameter.kind is not parameter.VAR_POSITIONAL:
                names.add(parameter.name)
        if not open_end:
            return names - {'self'}
        if not _passes_on(constructor):
            return None
    return None


def _passes_on(constructor: Any) -> bool:
    """Whether a constructor hands ``**kwargs`` to its base class, and not elsewhere."""
    try:
        text = inspect.getsource(constructor)
    except (OSError, TypeError):
        return False
    text = re.sub(r'kwargs = \{[^{}]*\*\*kwargs[^{}]*\}', '', text)  # defaults for it
    found = re.search(r'super\([^)]*\)\.__init__\([^()]*\*\*kwargs', text)
    return found is not None and text.count('**kwargs') == 2
