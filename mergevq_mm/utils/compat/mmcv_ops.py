"""mmcv-lite, which has no compiled operators."""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, Callable

from .watching import exists


class MissingOps(ModuleType):
    """Stand-in for ``mmcv._ext`` whose operators raise when they are called."""

    def __getattr__(self, name: str) -> Callable[..., Any]:
        """Return a function that explains what is missing."""
        if name.startswith('__'):
            raise AttributeError(name)

        def missing(*args: Any, **kwargs: Any) -> None:
            raise RuntimeError(
                f'The operator mmcv.ops.{name} is not compiled in mmcv-lite: '
                'install mmcv==2.1.0 with its operators in place of mmcv-lite.'
            )

        missing.__name__ = name
        return missing


def stub_mmcv_ext() -> bool:
    """Give mmcv-lite an ``mmcv._ext`` that can be imported.

    mmagic.models, mmdet and mmseg import the compiled operators, also where they
    use none. The stub needs a ``ModuleSpec``, or ``Runner.wrap_model`` fails.

    Returns:
        bool: Whether the stub was installed.
    """
    if exists('mmcv._ext'):
        return False
    stub = MissingOps('mmcv._ext')
    stub.__spec__ = ModuleSpec('mmcv._ext', loader=None)
    sys.modules['mmcv._ext'] = stub
    return True
