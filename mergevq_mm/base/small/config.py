"""Configs that are data already: dicts whose keys are attributes, too."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, NoReturn

from ..tier import needs_training

_DELETE = '_delete_'


class ConfigDict(dict):
    """A dict whose keys are attributes, all the way down.

    Args:
        content (Mapping): What it holds.
    """

    def __init__(self, content: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        for key, value in (content or {}).items():
            self[key] = value

    def __setitem__(self, key: str, value: Any) -> None:
        super().__setitem__(key, _wrapped(value))

    def setdefault(self, key: str, default: Any = None) -> Any:
        """The value of a key, ``default`` where it has none."""
        if key not in self:
            self[key] = default
        return self[key]

    def __getattr__(self, name: str) -> Any:
        """The value of a key."""
        try:
            return self[name]
        except KeyError:
            kind = type(self).__name__
            raise AttributeError(f'{kind!r} has no attribute {name!r}') from None

    def __setattr__(self, name: str, value: Any) -> None:
        self[name] = value

    def __deepcopy__(self, memo: dict[int, Any]) -> ConfigDict:
        return type(self)(self.to_dict())

    def __reduce__(self) -> tuple:
        return type(self), (self.to_dict(),)

    def to_dict(self) -> dict[str, Any]:
        """A copy of plain dicts.

        Returns:
            dict[str, Any]: Lists and tuples are copied, too.
        """
        return {key: _plain(value) for key, value in self.items()}


class Config(ConfigDict):
    """The content of a config."""

    @staticmethod
    def fromfile(path: str | os.PathLike, *args: Any, **kwargs: Any) -> NoReturn:
        """Refuse to run a config that is a script.

        Raises:
            MissingExtra: Always; what is data is read elsewhere.
        """
        raise needs_training(f'The config "{path}"')

    def merge_from_dict(self, options: Mapping[str, Any]) -> None:
        """Override values, in place.

        Args:
            options (Mapping): By keys, with dots to go down; dicts are merged, and one
                with ``_delete_`` replaces.

        Raises:
            TypeError: If a dict meets something else.
            KeyError: If a list is not so long.
        """
        for dotted, value in options.items():
            for key in reversed(dotted.split('.')[1:]):
                value = {key: value}
            key = dotted.partition('.')[0]
            self[key] = _merged({key: value}, self)[key]


def _merged(change: Mapping[str, Any], base: Any) -> Any:
    """A dict or a list with some of its values changed; ``base`` stays."""
    base = list(base) if isinstance(base, list) else dict(base)
    for key, value in change.items():
        place = key
        if isinstance(base, list) and key.isdigit():
            place = int(key)
            if place >= len(base):
                raise KeyError(f'Index {place} exceeds the length of list {base}')
        known = isinstance(base, list) or place in base
        replaces = isinstance(value, Mapping) and value.get(_DELETE, False)
        if isinstance(value, Mapping) and known and not replaces:
            if not isinstance(base[place], (dict, list)):
                raise TypeError(
                    f'{key}={dict(value)} is a dict, but the config has '
                    f'{base[place]!r} there; {_DELETE}=True in it replaces that.'
                )
            value = _merged(value, base[place])
        elif isinstance(value, Mapping):
            value = {name: item for name, item in value.items() if name != _DELETE}
        base[place] = value
    return base


def _wrapped(value: Any) -> Any:
    if isinstance(value, Mapping) and not isinstance(value, ConfigDict):
        return ConfigDict(value)
    if type(value) in (list, tuple):
        return type(value)(_wrapped(item) for item in value)
    return value


def _plain(value: Any) -> Any:
    if isinstance(value, ConfigDict):
        return value.to_dict()
    if type(value) in (list, tuple):
        return type(value)(_plain(item) for item in value)
    return value
