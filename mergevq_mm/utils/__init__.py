"""Checkpoints, configs and compatibility with the installed stack."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # for editors; at run time they come on first access
    from .checkpoint import (
        LoadReport,
        check_state_dict_matches,
        fetch_file,
        find_latest_checkpoint,
        load_checkpoint_file,
        load_pretrained,
    )

# Name -> module: the package's own `__init__` imports this room, so that it must
# not import torch's or mmengine's heavy parts before they are asked for.
_LAZY = {
    'LoadReport': 'checkpoint',
    'check_state_dict_matches': 'checkpoint',
    'fetch_file': 'checkpoint',
    'find_latest_checkpoint': 'checkpoint',
    'load_checkpoint_file': 'checkpoint',
    'load_pretrained': 'checkpoint',
}

__all__ = [
    'LoadReport',
    'check_state_dict_matches',
    'fetch_file',
    'find_latest_checkpoint',
    'load_checkpoint_file',
    'load_pretrained',
]


def __getattr__(name: str) -> Any:
    """Import a public name of this room on first access (PEP 562)."""
    if name in _LAZY:
        module = importlib.import_module(f'{__name__}.{_LAZY[name]}')
        return getattr(module, name)
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
