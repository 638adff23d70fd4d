"""Models by name, by folder and by repository; and inferencers, which use them."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from .hub import list_models, model_info
from .model import get_model, init_model
from .pretrained import from_pretrained
from .publishing import export_checkpoint, push_to_hub, save_pretrained

if TYPE_CHECKING:  # for editors; at run time they come on first access
    from ..models.utils.budget import Budget
    from .coding_inferencers import DecodingInferencer, EncodingInferencer
    from .editing_inferencer import EditingInferencer
    from .generation_inferencer import GenerationInferencer
    from .inferencers import FeatureInferencer, ReconstructionInferencer

# Name -> module: mmengine's base of the inferencers takes seconds to import, and so do
# the models.
_LAZY = {
    'Budget': '..models.utils.budget',
    'DecodingInferencer': '.coding_inferencers',
    'EditingInferencer': '.editing_inferencer',
    'EncodingInferencer': '.coding_inferencers',
    'FeatureInferencer': '.inferencers',
    'GenerationInferencer': '.generation_inferencer',
    'ReconstructionInferencer': '.inferencers',
}

__all__ = [
    'Budget',
    'DecodingInferencer',
    'EditingInferencer',
    'EncodingInferencer',
    'FeatureInferencer',
    'GenerationInferencer',
    'ReconstructionInferencer',
    'export_checkpoint',
    'from_pretrained',
    'get_model',
    'init_model',
    'list_models',
    'model_info',
    'push_to_hub',
    'save_pretrained',
]


def __getattr__(name: str) -> Any:
    """Import what is heavy on first access (PEP 562)."""
    if name in _LAZY:
        module = importlib.import_module(_LAZY[name], __name__)
        return getattr(module, name)
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')


def __dir__() -> list[str]:
    """List the public names, with those that are not imported yet."""
    return sorted({*__all__, *(name for name in globals() if name[:2] == '__')})
