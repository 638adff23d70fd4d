"""Stand-ins for names that another package imports and never had to.

A few modules of mmagic import, at their top, what later versions of diffusers have
dropped, or what mmagic does not even require. Nothing of this project uses those
modules, yet ``mmagic.models`` imports them all. While such a module runs its code, and
only then, the missing name is there; what it got raises when it is used.
"""

from __future__ import annotations

import sys
from types import ModuleType

from .watching import after_import, before_import, exists


class LentModule(ModuleType):
    """A module whose every public name is a class that raises when it is made."""

    def __getattr__(self, name: str) -> type:
        """Return a stand-in for a class of the missing module."""
        if name.startswith('__'):
            raise AttributeError(name)
        missing = self.__name__

        class Missing:
            def __init__(self, *args: object, **kwargs: object) -> None:
                raise ModuleNotFoundError(
                    f'{missing}.{name} is not in the installed packages: install '
                    f'a version of {missing.split(".")[0]} that has it.',
                    name=missing,
                )

        Missing.__name__ = Missing.__qualname__ = name
        return Missing


def lend(missing: str, borrower: str) -> None:
    """Lend a module to another while that one is imported, if nobody has it.

    Args:
        missing (str): Full name of the module that may be absent.
        borrower (str): Full name of the module that imports it at its top.
    """
    lent = LentModule(missing)

    def give() -> None:
        if not exists(missing):
            sys.modules[missing] = lent

    def take_back() -> None:
        if sys.modules.get(missing) is lent:
            del sys.modules[missing]

    before_import(borrower, give)
    after_import(borrower, take_back, failed=True)
