"""Merge maps, strips, grids, plots; and backends that follow a resumed run."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from ..base.tier import has_openmmlab, require
from .budgets import BudgetImage, budget_sheet
from .grids import (
    reconstruction_columns,
    reconstruction_grid,
    sample_grid,
    save_png,
    tile,
    to_uint8,
)
from .merge_map import distinct_colours, draw_merge_map, mean_colours, palette
from .merging import (
    attention_strip,
    draw_attention,
    growth_strip,
    merge_panel,
    outline_groups,
    paint_groups,
    reconstruction_strip,
    shade_region,
)
from .neighbours import Neighbours, nearest_images, neighbour_sheet
from .sheets import SheetRow, contact_sheet
from .strips import strip

if TYPE_CHECKING or has_openmmlab():  # registered by the import of this room
    from .backends import RunTensorboardBackend, RunWandbBackend
if TYPE_CHECKING:  # for editors; at run time they come on first access
    from .cache import CacheTrace, cache_figure, trace_cache
    from .code_usage import code_usage_figure
    from .curves import curves_figure, find_logs, read_curves
    from .plots import figure_image

# Name -> module: plots need matplotlib, which the small tier does not have.
_LAZY = {
    'CacheTrace': 'cache',
    'RunTensorboardBackend': 'backends',
    'RunWandbBackend': 'backends',
    'cache_figure': 'cache',
    'code_usage_figure': 'code_usage',
    'curves_figure': 'curves',
    'figure_image': 'plots',
    'find_logs': 'curves',
    'read_curves': 'curves',
    'trace_cache': 'cache',
}

__all__ = [
    'BudgetImage',
    'CacheTrace',
    'Neighbours',
    'RunTensorboardBackend',
    'RunWandbBackend',
    'SheetRow',
    'attention_strip',
    'budget_sheet',
    'cache_figure',
    'code_usage_figure',
    'contact_sheet',
    'curves_figure',
    'distinct_colours',
    'draw_attention',
    'draw_merge_map',
    'figure_image',
    'find_logs',
    'growth_strip',
    'mean_colours',
    'merge_panel',
    'nearest_images',
    'neighbour_sheet',
    'outline_groups',
    'paint_groups',
    'palette',
    'read_curves',
    'reconstruction_columns',
    'reconstruction_grid',
    'reconstruction_strip',
    'sample_grid',
    'save_png',
    'shade_region',
    'strip',
    'tile',
    'to_uint8',
    'trace_cache',
]


def __getattr__(name: str) -> Any:
    """Import what plots and what logs on first access (PEP 562)."""
    if name in _LAZY:
        if _LAZY[name] != 'backends':
            require('matplotlib', name)
        module = importlib.import_module(f'{__name__}.{_LAZY[name]}')
        return getattr(module, name)
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
