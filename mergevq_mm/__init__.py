"""MergeVQ (CVPR 2025) as an OpenMMLab plugin.

``import mergevq_mm`` makes the installed stack usable (:mod:`mergevq_mm.utils.compat`)
and nothing more; the rooms are imported by the first registry look-up of a type
``mergevq_mm.X`` or the first access to an attribute such as ``mergevq_mm.models`` or
``mergevq_mm.get_model``.
Where the package is installed, the first import of torchvision or of an OpenMMLab
package brings it in; from a bare checkout import it before them.
"""

from __future__ import annotations

import importlib
from typing import Any

from .utils import compat as _compat
from .version import __version__

_compat.apply()

_ROOMS = (
    'apis',
    'datasets',
    'engine',
    'evaluation',
    'models',
    'registry',
    'utils',
    'visualization',
)

_APIS = (
    'from_pretrained',
    'get_model',
    'init_model',
    'list_models',
    'push_to_hub',
    'save_pretrained',
)

__all__ = ['__version__']


def __getattr__(name: str) -> Any:
    """Import a room, or what is used most, on first access (PEP 562).

    Args:
        name (str): The attribute asked for.

    Returns:
        Any: The subpackage of that name, or the function of :mod:`mergevq_mm.apis`.

    Raises:
        AttributeError: If the package has neither.
    """
    if name in _ROOMS:
        return importlib.import_module(f'{__name__}.{name}')
    if name in _APIS:
        return getattr(importlib.import_module(f'{__name__}.apis'), name)
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')


def __dir__() -> list[str]:
    """List the package's attributes, with the rooms not imported yet."""
    return sorted({*globals(), *_ROOMS, *_APIS})
