"""The learned position embedding: its start, and grids that it was not made for."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


def sincos_positions(grid: tuple[int, int], dims: int) -> Tensor:
    """Sines and cosines of row and column, as MAE and MoCo v3 have them.

    Args:
        grid (tuple[int, int]): Rows and columns.
        dims (int): Width D.

    Returns:
        Tensor: 1×L×D in raster order.

    Raises:
        ValueError: If a quarter of the width is not whole.
    """
    if dims % 4:
        raise ValueError(
            f"pos_embed='sincos' needs a width that 4 divides, not {dims}: sine and "
            'cosine of row and column each take a quarter.'
        )
    rows, columns = grid
    rank = torch.arange(dims // 4, dtype=torch.float32) / (dims // 4)
    rate = 1.0 / 10000.0**rank
    places = torch.meshgrid(
        torch.arange(rows, dtype=torch.float32),
        torch.arange(columns, dtype=torch.float32),
        indexing='ij',
    )
    row, column = (torch.outer(place.flatten(), rate) for place in places)
    return torch.cat([row.sin(), row.cos(), column.sin(), column.cos()], dim=1)[None]


def resize_positions(
    table: Tensor, source: tuple[int, int], target: tuple[int, int]
) -> Tensor:
    """Interpolate a position embedding from one grid to another.

    Args:
        table (Tensor): 1×L×D in raster order.
        source (tuple[int, int]): Rows and columns that it was made for.
        target (tuple[int, int]): Rows and columns wanted.

    Returns:
        Tensor: 1×L'×D.
    """
    if tuple(source) == tuple(target):
        return table
    on_grid = table.unflatten(1, tuple(source)).permute(0, 3, 1, 2)  # 1×D×h×w
    resized = F.interpolate(
        on_grid.float(), tuple(target), mode='bicubic', align_corners=False
    )
    return resized.flatten(2).transpose(1, 2).to(table.dtype).contiguous()


def fit_loaded_positions(
    state_dict: dict[str, Any], prefix: str, own: Tensor, grid: tuple[int, int]
) -> None:
    """Fit the position embedding of a checkpoint to a model, in place.

    The grid stands beside the embedding, because 4x4 and 2x8 positions are equally
    many. Files of before it was saved are read as square.

    Args:
        state_dict (dict): About to be loaded; ``pos_embed`` is resized where its grid
            is another one, and ``pos_grid`` becomes the model's.
        prefix (str): What stands before the two names.
        own (Tensor): The model's embedding, 1×L×D.
        grid (tuple[int, int]): The model's grid.

    Raises:
        ValueError: If the checkpoint's grid does not fit its embedding, or is not known
            and cannot be guessed.
    """
    name, grid_name = prefix + 'pos_embed', prefix + 'pos_grid'
    if name not in state_dict:
        return
    loaded, saved = state_dict[name], state_dict.get(grid_name)
    if saved is not None and saved.is_meta:
        saved = None  # a model without storage: there is nothing to read
    length = loaded.shape[1]
    if saved is not None:
        source = tuple(saved.tolist())
    elif math.isqrt(length) ** 2 == length:
        source = (math.isqrt(length),) * 2
    else:  # not square: it can only be taken as it is
        source = grid
    if math.prod(source) != length:
        what = 'no pos_grid' if saved is None else f'pos_grid={list(source)}'
        raise ValueError(
            f'{name} of the checkpoint has {length} positions and {what}, so that '
            f'they cannot be brought to the grid {list(grid)}; add {grid_name}, a '
            'tensor of their rows and columns, to the checkpoint.'
        )
    if source != grid and loaded.shape[2:] == own.shape[2:]:
        state_dict[name] = resize_positions(loaded, source, grid)
    state_dict[grid_name] = torch.tensor(grid)
