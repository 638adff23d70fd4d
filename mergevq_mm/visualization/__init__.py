"""Merge maps, grids of reconstructions and of generated images."""

from .grids import reconstruction_grid, sample_grid, save_png, tile, to_uint8
from .merge_map import distinct_colours, draw_merge_map, mean_colours, palette

__all__ = [
    'distinct_colours',
    'draw_merge_map',
    'mean_colours',
    'palette',
    'reconstruction_grid',
    'sample_grid',
    'save_png',
    'tile',
    'to_uint8',
]
