"""Types by name, as configs write them."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from ..tier import needs_training


class Registry:
    """Classes and functions by name.

    Args:
        name (str): What they are.
        parent (Registry, optional): Of mmengine's; nothing is looked for in it.
            Defaults to None.
        scope (str): What stands before a name and a dot. Defaults to ''.
        locations (Sequence[str]): Modules that are imported by the first look-up.
            Defaults to ().
    """

    def __init__(
        self,
        name: str,
        parent: Registry | None = None,
        scope: str = '',
        locations: Sequence[str] = (),
    ) -> None:
        self.name, self.parent, self.scope = name, parent, scope
        self.module_dict: dict[str, Callable] = {}
        self._locations = list(locations)

    def import_from_location(self) -> None:
        """Import the modules that register something here, once."""
        while self._locations:
            importlib.import_module(self._locations.pop())

    def register_module(
        self,
        name: str | Sequence[str] | None = None,
        force: bool = False,
        module: Callable | None = None,
    ) -> Callable:
        """Register a class or a function, or return what decorates one.

        Args:
            name (str | Sequence[str], optional): Its names. Defaults to None, its own.
            force (bool): Whether to take the place of another one. Defaults to False.
            module (Callable, optional): What to register. Defaults to None.

        Returns:
            Callable: ``module``, or a decorator.

        Raises:
            KeyError: If a name is taken.
        """
        if module is None:
            return lambda made: self.register_module(name, force, made)
        names = [name or module.__name__] if not isinstance(name, Sequence) else name
        for one in [names] if isinstance(names, str) else names:
            if not force and one in self.module_dict:
                raise KeyError(f'{one} is already registered in {self.name}')
            self.module_dict[one] = module
        return module

    def get(self, key: str) -> Callable | None:
        """What has a name.

        Args:
            key (str): With or without our scope.

        Returns:
            Callable | None: None where nothing has it.

        Raises:
            MissingExtra: If it is of another package.
        """
        self.import_from_location()
        scope, _, name = key.rpartition('.')
        if scope not in ('', self.scope):
            raise needs_training(f'type={key!r}')
        return self.module_dict.get(name)

    def build(self, cfg: Mapping[str, Any], **defaults: Any) -> Any:
        """Make what a config names.

        Args:
            cfg (Mapping): ``type``, a name or a callable, and its arguments.
            **defaults (Any): Arguments that it may lack.

        Returns:
            Any: The made object.

        Raises:
            KeyError: If there is no type of this name.
        """
        arguments = {**defaults, **cfg}
        arguments.pop('_scope_', None)
        kind = arguments.pop('type')
        made = self.get(kind) if isinstance(kind, str) else kind
        if made is None:
            raise KeyError(f'{kind} is not in the registry {self.scope}::{self.name}')
        return made(**arguments)

    def __contains__(self, key: str) -> bool:
        return self.get(key) is not None


class Roots:
    """Gives a registry of any name, where mmengine has its roots."""

    def __getattr__(self, name: str) -> Registry:
        """Make a root."""
        if name.startswith('_'):
            raise AttributeError(name)
        return Registry(name.lower())


class DefaultScope:
    """Stands for mmengine's; there is one scope."""

    @staticmethod
    @contextlib.contextmanager
    def overwrite_default_scope(scope: str | None) -> Iterator[None]:
        """Do nothing while the block runs."""
        yield
