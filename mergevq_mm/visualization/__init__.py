"""Merge maps, strips, grids, plots; and backends that follow a resumed run."""

from .backends import RunTensorboardBackend, RunWandbBackend
from .budgets import BudgetImage, budget_sheet
from .cache import CacheTrace, cache_figure, trace_cache
from .code_usage import code_usage_figure
from .curves import curves_figure, find_logs, read_curves
from .grids import reconstruction_grid, sample_grid, save_png, tile, to_uint8
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
from .plots import figure_image
from .sheets import SheetRow, contact_sheet
from .strips import strip

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
