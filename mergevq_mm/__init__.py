"""MergeVQ (CVPR 2025) as an OpenMMLab plugin.

``import mergevq_mm`` makes the installed stack usable (:mod:`mergevq_mm.utils.compat`)
and nothing more; the rooms are imported by the first registry look-up of a type
``mergevq_mm.X`` or the first access to an attribute such as ``mergevq_mm.models`` or
``mergevq_mm.get_model``.
Where the package is installed, the first import of torchvision or of an OpenMMLab
package brings it in; from a bare checkout import it before them.
"""

from __future__ import annotations

import importlib as _importlib
from typing import TYPE_CHECKING as _TYPE_CHECKING

from .utils import compat as _compat
from .version import __version__

if _TYPE_CHECKING:  # for editors; at run time they come on first access
    from . import (
        apis,
        datasets,
        engine,
        evaluation,
        models,
        registry,
        utils,
        visualization,
    )
    from .apis import (
        Budget,
        DecodingInferencer,
        EditingInferencer,
        EncodingInferencer,
        FeatureInferencer,
        GenerationInferencer,
        ReconstructionInferencer,
        export_checkpoint,
        from_pretrained,
        get_model,
        init_model,
        list_models,
        model_info,
        push_to_hub,
        save_pretrained,
    )

_compat.apply()

__all__ = [
    'Budget',
    'DecodingInferencer',
    'EditingInferencer',
    'EncodingInferencer',
    'FeatureInferencer',
    'GenerationInferencer',
    'ReconstructionInferencer',
    '__version__',
    'apis',
    'datasets',
    'engine',
    'evaluation',
    'export_checkpoint',
    'from_pretrained',
    'get_model',
    'init_model',
    'list_models',
    'model_info',
    'models',
    'push_to_hub',
    'registry',
    'save_pretrained',
    'utils',
    'visualization',
]

_ROOMS = {
    'apis',
    'datasets',
    'engine',
    'evaluation',
    'models',
    'registry',
    'utils',
    'visualization',
}


def __getattr__(name: str) -> object:
    """Import a room, or what is used most, on first access (PEP 562).

    Args:
        name (str): The attribute asked for.

    Returns:
        object: The subpackage of that name, or the function or class of
        :mod:`mergevq_mm.apis`.

    Raises:
        AttributeError: If the package has neither.
    """
    if name in _ROOMS:
        return _importlib.import_module(f'{__name__}.{name}')
    if name in __all__:
        return getattr(_importlib.import_module(f'{__name__}.apis'), name)
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')


def __dir__() -> list[str]:
    """List what the package is for, with what is not imported yet."""
    return sorted({*__all__, *(name for name in globals() if name[:2] == '__')})
