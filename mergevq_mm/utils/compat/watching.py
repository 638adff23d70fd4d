"""Do something before or after another package's module runs its code.

Most measures concern a module that takes seconds to import, or one that must not be
imported at all where nobody asks for it. So they wait for it.
"""

from __future__ import annotations

import copy
import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, Callable, Sequence

from ...base.tier import exists

__all__ = ['after_import', 'before_import', 'exists', 'find_spec']

Action = Callable[[], Any]


class _Watcher(MetaPathFinder):
    """Finds nothing itself: asks the other finders, and wraps what they found."""

    def __init__(self) -> None:
        self.before: dict[str, list[Action]] = {}
        self.after: dict[str, list[Action]] = {}
        self.failed: dict[str, list[Action]] = {}

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,
        target: ModuleType | None = None,
    ) -> ModuleSpec | None:
        """Return the spec of a watched module, with the actions around its code."""
        if fullname not in self.before and fullname not in self.after:
            return None
        spec = find_spec(fullname, path, target, but=self)
        if spec is None or spec.loader is None:
            return spec
        # Its own: that of a zip file is one object for all modules in it.
        spec.loader = copy.copy(spec.loader)
        run = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            for action in self.before.get(fullname, []):
                action()
            try:
                run(module)
            except BaseException:
                for action in self.failed.get(fullname, []):
                    action()
                raise
            for action in self.after.get(fullname, []):
                action()

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


_WATCHER = _Watcher()


def find_spec(
    fullname: str,
    path: Sequence[str] | None = None,
    target: ModuleType | None = None,
    but: object = None,
) -> ModuleSpec | None:
    """Ask all finders for a module, except for one of them.

    Args:
        fullname (str): Full name of the module.
        path (Sequence[str] | None): ``__path__`` of its package; None for a
            top-level module.
        target (ModuleType | None): The module that is reloaded, if one is.
        but (object): The finder that is not asked.

    Returns:
        ModuleSpec | None: What the first one found.
    """
    for finder in list(sys.meta_path):
        if finder is not but and hasattr(finder, 'find_spec'):
            spec = finder.find_spec(fullname, path, target)
            if spec is not None:
                return spec
    return None


def before_import(name: str, action: Action) -> None:
    """Run an action before a module's code; not at all if that has run.

    Args:
        name (str): Full name of the module.
        action (Callable): What to do. What it raises ends the import.
    """
    if name not in sys.modules:
        _watch(_WATCHER.before, name, action)


def after_import(name: str, action: Action, failed: bool = False) -> None:
    """Run an action after a module's code; at once if that has run.

    Args:
        name (str): Full name of the module.
        action (Callable): What to do.
        failed (bool): Whether to do it after code that fails, too. Defaults to False.
    """
    if failed:
        _watch(_WATCHER.failed, name, action)
    if name in sys.modules:
        action()
    else:
        _watch(_WATCHER.after, name, action)


def _watch(actions: dict[str, list[Action]], name: str, action: Action) -> None:
    actions.setdefault(name, []).append(action)
    if _WATCHER not in sys.meta_path:
        sys.meta_path.insert(0, _WATCHER)
