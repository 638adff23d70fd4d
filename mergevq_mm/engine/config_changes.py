"""What has changed between the config of a checkpoint and that of the resumed run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from torch import Tensor, nn

from mergevq_mm.utils.checkpoint import normalize_keys, plain_state_dict
from mergevq_mm.utils.older_neck import ORDER

from .accumulation import each_wrapper

# Keys that say where and how a run is started, not what it computes.
_IGNORED = (
    'custom_imports',
    'experiment_name',
    'launcher',
    'load_from',
    'log_level',
    'resume',
    'work_dir',
)


class ConfigChange(NamedTuple):
    """A setting that differs.

    Attributes:
        key (str): With dots, as for ``--cfg-options``.
        old (str): Its value in the checkpoint; 'not set' where it was absent.
        new (str): Its value in this run.
    """

    key: str
    old: str
    new: str

    def __str__(self) -> str:
        """Show the change in one line."""
        return f'{self.key}: {self.old} -> {self.new}'


def plain_config(value: Any) -> Any:
    """Copy a config as plain types, so that a checkpoint can hold it.

    Args:
        value (Any): A config, or a part of one.

    Returns:
        Any: Dicts, lists, numbers and strings; anything else as its ``repr``.
    """
    if isinstance(value, Mapping):
        return {str(k): plain_config(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain_config(item) for item in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return repr(value)


def _flatten(value: Any, key: str = '') -> dict[str, str]:
    """Settings of a plain config by dotted key; lists of dicts by their index."""
    if isinstance(value, Mapping):
        items: Iterable = value.items()
    elif isinstance(value, list) and any(isinstance(x, Mapping) for x in value):
        items = enumerate(value)
    else:
        return {key: repr(value)}
    found = {}
    for name, item in items:
        found.update(_flatten(item, f'{key}.{name}' if key else str(name)))
    return found


def config_changes(old: Any, new: Any) -> list[ConfigChange]:
    """Compare two configs.

    Args:
        old (Any): The checkpoint's, plain.
        new (Any): This run's, plain.

    Returns:
        list[ConfigChange]: What differs, by key.
    """
    before, after = _flatten(old), _flatten(new)
    changes = []
    for key in sorted(before.keys() | after.keys()):
        a, b = before.get(key, 'not set'), after.get(key, 'not set')
        if a != b and key.split('.')[0] not in _IGNORED:
            changes.append(ConfigChange(key, a, b))
    return changes


def _explain(changes: list[ConfigChange], section: str) -> str:
    """Name the settings of a section that changed, as the cause of a misfit."""
    causes = [str(change) for change in changes if change.key.startswith(section)]
    if not causes:
        return f'the config has no visible change in {section}'
    more = f' and {len(causes) - 8} more' if len(causes) > 8 else ''
    return f'the config changed in {"; ".join(causes[:8])}{more}'


def _tensors(state_dict: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors of a state dict, without the extra state that modules may keep."""
    return {k: v for k, v in state_dict.items() if isinstance(v, Tensor)}


def check_weights_fit(
    model: nn.Module, state_dict: Mapping[str, Any], changes: list[ConfigChange]
) -> None:
    """Refuse to resume weights into a model of another shape.

    mmengine would warn and go on with random weights where they do not fit.

    Args:
        model (nn.Module): The model, out of its wrapper.
        state_dict (Mapping[str, Any]): The checkpoint's raw weights.
        changes (list[ConfigChange]): To explain it by.

    Raises:
        ValueError: If a weight is missing, left over or of another shape, or the neck
            is of before the order of the codes was known to it.
    """
    expected = _tensors(plain_state_dict(model))
    given = _tensors(state_dict)
    found = normalize_keys(given, expected)
    completed = [name for name in found if name.endswith(ORDER)]
    if completed and not any(name.endswith(ORDER) for name in given):
        # It could be loaded; but no optimizer and no average have anything for it.
        raise ValueError(
            f'resume: the checkpoint has no "{completed[0]}", for its SourceRecovery '
            'is of before the order of the codes was known, and its optimizer does not '
            'fit; start a new run from its weights with load_from and without resume, '
            'or finish it with the version of mergevq_mm that wrote it.'
        )
    problems = []
    for name in sorted(expected.keys() | found.keys()):
        wanted, saved = expected.get(name), found.get(name)
        if saved is None:
            problems.append(f'"{name}" is missing')
        elif wanted is None:
            problems.append(f'"{name}" is left over')
        elif wanted.shape != saved.shape:
            problems.append(
                f'"{name}" has shape {list(saved.shape)} and should have '
                f'{list(wanted.shape)}'
            )
    if problems:
        more = f' (and {len(problems) - 1} more)' if len(problems) > 1 else ''
        raise ValueError(
            f'resume: the checkpoint does not fit the model, as {problems[0]}{more}; '
            f'{_explain(changes, "model")}; set it back, or start a new run with '
            'load_from and without resume.'
        )


def check_optimizers_fit(
    optim_wrapper: Any, saved: Mapping[str, Any] | None, changes: list[ConfigChange]
) -> None:
    """Refuse to resume the state of other optimizers.

    Args:
        optim_wrapper (OptimWrapper | OptimWrapperDict): Of this run.
        saved (Mapping, optional): The checkpoint's ``optimizer``.
        changes (list[ConfigChange]): Their types, and to explain it by.

    Raises:
        ValueError: If names, types or groups of parameters differ.
    """
    if saved is None:
        return
    wrappers = dict(each_wrapper(optim_wrapper))
    states = {'': saved} if 'param_groups' in saved else saved
    problem = None
    if wrappers.keys() != states.keys():
        problem = f'it holds {_names(states)} and the run has {_names(wrappers)}'
    for change in changes:
        if change.key.startswith('optim_wrapper') and change.key.endswith(
            'optimizer.type'
        ):
            problem = problem or f'{change.key} is another'
    for name, wrapper in wrappers.items():
        sizes = [len(group['params']) for group in wrapper.optimizer.param_groups]
        groups = states.get(name, {}).get('param_groups', [])
        others = [len(group['params']) for group in groups]
        if sizes != others:
            problem = problem or (
                f'its groups hold {sum(others)} parameters in {len(others)} groups and '
                f"the run's {sum(sizes)} in {len(sizes)}"
            )
    if problem:
        raise ValueError(
            f'resume: the state of the optimizer does not fit, as {problem}; '
            f'{_explain(changes, "optim_wrapper")}; set it back, or start a new run '
            'with load_from and without resume.'
        )


def _names(states: Mapping[str, Any]) -> str:
    """Names of optimizers, for a message."""
    return ', '.join(repr(name) for name in states if name) or 'a single optimizer'
