"""Pictures of what merging does to one image: groups, their growth, the price in dB."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from mergevq_mm.base.tier import require
from mergevq_mm.evaluation.functional.image_quality import psnr

from .grids import to_uint8
from .merge_map import (
    cell_scale,
    default_scale,
    distinct_colours,
    draw_merge_map,
    enlarge,
    group_borders,
    mean_colours,
    pixel_groups,
)
from .pixels import dilate, grey, resize_cubic
from .strips import strip


def outline_groups(
    image: np.ndarray, group: np.ndarray, grid: tuple[int, int], scale: int = 1
) -> np.ndarray:
    """The image with white lines where groups meet, dark at their rims.

    Args:
        image (np.ndarray): H×W×3 uint8.
        group (np.ndarray): Group of each raster position, L integers.
        grid (tuple[int, int]): Rows and columns.
        scale (int): Whole factor of enlargement. Defaults to 1.

    Returns:
        np.ndarray: H·scale × W·scale × 3 uint8.
    """
    picture = smooth_enlarge(image, scale)
    border = group_borders(pixel_groups(group, grid, picture.shape[:2]))
    rim = dilate(border, 3)
    outlined = picture.copy()
    outlined[rim] = outlined[rim] // 2  # a white line would vanish on white fur
    outlined[border] = 255
    return outlined


def paint_groups(
    image: np.ndarray, group: np.ndarray, grid: tuple[int, int], scale: int = 1
) -> np.ndarray:
    """Each group in the mean colour of the image below it: one token, one colour.

    Args:
        image (np.ndarray): H×W×3 uint8.
        group (np.ndarray): Group of each raster position, L integers.
        grid (tuple[int, int]): Rows and columns.
        scale (int): Whole factor of enlargement. Defaults to 1.

    Returns:
        np.ndarray: H·scale × W·scale × 3 uint8.
    """
    size = (image.shape[0] * scale, image.shape[1] * scale)
    return mean_colours(image, group, grid)[pixel_groups(group, grid, size)]


def merge_panel(
    image: np.ndarray,
    group: np.ndarray,
    grid: tuple[int, int],
    scale: int | None = None,
) -> np.ndarray:
    """Image, outlined groups, coloured groups and their average colours side by side.

    Args:
        image (np.ndarray): H×W×3 uint8.
        group (np.ndarray): Group of each raster position, L integers.
        grid (tuple[int, int]): Rows and columns.
        scale (int, optional): Whole factor of enlargement. Defaults to None, to about
            300 pixels, or more where the cells are small.

    Returns:
        np.ndarray: H'×W'×3 uint8.
    """
    scale = scale or cell_scale(image.shape[:2], grid, 300)
    group = np.asarray(group)
    sizes = np.bincount(group)
    alone = int((sizes == 1).sum())
    images = [
        smooth_enlarge(image, scale),
        outline_groups(image, group, grid, scale),
        draw_merge_map(image, group, grid, scale=scale),
        paint_groups(image, group, grid, scale),
    ]
    titles = [
        'image',
        f'{len(sizes)} tokens for {group.size} positions',
        'groups',
        'average colours',
    ]
    notes = [
        [f'{image.shape[1]} x {image.shape[0]} pixels'],
        ['lines: where two groups meet'],
        [f'largest: {sizes.max()} positions; {alone} stand alone'],
        ['one colour a token'],
    ]
    return strip(images, titles, notes)


def growth_strip(
    image: np.ndarray,
    groups: Sequence[np.ndarray],
    grid: tuple[int, int],
    columns: int | None = None,
    scale: int | None = None,
) -> np.ndarray:
    """How groups grow layer by layer.

    A position that has merged with none yet shows the image in grey. Others have the
    colour of the group that they belong to in the end, so that a colour spreads from
    one picture to the next.

    Args:
        image (np.ndarray): H×W×3 uint8.
        groups (Sequence[np.ndarray]): The map after each layer, L integers each.
        grid (tuple[int, int]): Rows and columns.
        columns (int, optional): Pictures of a row. Defaults to None: 4 where there are
            more than 7 with the image.
        scale (int, optional): Whole factor of enlargement. Defaults to None.

    Returns:
        np.ndarray: H'×W'×3 uint8; the image first.

    Raises:
        ValueError: If there is no layer.
    """
    if not len(groups):
        raise ValueError('groups is empty; give the map of at least one layer.')
    scale = scale or default_scale(image.shape[:2], 200)
    picture = smooth_enlarge(image, scale)
    final = np.asarray(groups[-1])
    colours = distinct_colours(final, grid)[
        pixel_groups(final, grid, picture.shape[:2])
    ]
    images, titles, notes = [picture], ['image'], [[f'{final.size} positions']]
    before = final.size
    for number, group in enumerate(groups, 1):
        group = np.asarray(group)
        images.append(_grown(picture, group, grid, colours))
        count = int(group.max()) + 1
        titles.append(f'after layer {number}')
        notes.append([f'{count} tokens (-{before - count})'])
        before = count
    if columns is None and len(images) > 7:
        columns = 4
    return strip(images, titles, notes, columns)


def reconstruction_strip(
    original: Tensor,
    reconstructions: Mapping[int, Tensor],
    bits: Mapping[int, tuple[int, int]],
    scale: int | None = None,
    columns: int | None = None,
) -> np.ndarray:
    """Reconstructions from all tokens down to few, with PSNR and bits below each.

    Args:
        original (Tensor): 3×H×W in [0, 1].
        reconstructions (Mapping[int, Tensor]): K to image, 3×H×W in [0, 1].
        bits (Mapping[int, tuple[int, int]]): K to the bits of the codes and of the
            source map.
        scale (int, optional): Whole factor of enlargement. Defaults to None.
        columns (int, optional): Images of a row. Defaults to None, one row.

    Returns:
        np.ndarray: H'×W'×3 uint8; the original first, then K in descending order.

    Raises:
        ValueError: If there is no reconstruction.
    """
    if not reconstructions:
        raise ValueError('reconstructions is empty; give at least one K.')
    height, width = original.shape[-2:]
    scale = scale or default_scale((height, width), 200)
    images, titles = [smooth_enlarge(to_uint8(original), scale)], ['original']
    notes = [[f'{height * width * 24:,} bits', 'as 8-bit RGB']]
    for keep in sorted(reconstructions, reverse=True):
        image = reconstructions[keep]
        images.append(smooth_enlarge(to_uint8(image), scale))
        quality = float(psnr(image[None], original[None])[0])
        codes, source = bits[keep]
        titles.append(f'K = {keep}')
        notes.append([f'PSNR {quality:.1f} dB', f'{codes:,} + {source:,} bits'])
    return strip(images, titles, notes, columns)


def smooth_enlarge(image: np.ndarray, scale: int) -> np.ndarray:
    """Enlarge a photograph by a whole factor; small ones keep their pixels.

    Args:
        image (np.ndarray): H×W×3 uint8.
        scale (int): The factor.

    Returns:
        np.ndarray: H·scale × W·scale × 3 uint8.
    """
    if scale == 1 or min(image.shape[:2]) < 64:
        return enlarge(image, scale)
    size = (image.shape[1] * scale, image.shape[0] * scale)
    return resize_cubic(image, size)


def draw_attention(
    image: np.ndarray,
    attention: np.ndarray,
    grid: tuple[int, int],
    scale: int | None = None,
) -> np.ndarray:
    """Attention over a grey image: dark where there is little, bright where much.

    Args:
        image (np.ndarray): H×W×3 uint8.
        attention (np.ndarray): Weight of each raster position, L numbers of at least 0.
        grid (tuple[int, int]): Rows and columns.
        scale (int, optional): Whole factor of enlargement. Defaults to None.

    Returns:
        np.ndarray: H·scale × W·scale × 3 uint8. The scale of the colours ends at the
        99th percentile.

    Raises:
        ValueError: If there are more or fewer weights than positions.
    """
    require('matplotlib', 'draw_attention')
    from matplotlib import colormaps

    attention = np.asarray(attention, dtype=np.float32)
    if attention.size != grid[0] * grid[1]:
        raise ValueError(
            f'attention with {attention.size} positions does not fit '
            f'grid={tuple(grid)}; give the grid of the encoder that made it.'
        )
    picture = smooth_enlarge(image, scale or default_scale(image.shape[:2], 200))
    top = max(float(np.percentile(attention, 99)), 1e-12)
    share = np.clip(attention.reshape(grid) / top, 0, 1)
    size = (picture.shape[1], picture.shape[0])
    share = np.clip(resize_cubic(share, size), 0, 1)
    heat = colormaps['inferno'](share)[..., :3] * 255
    dull = grey(picture)[..., None].astype(np.float32)
    return (0.35 * dull + 0.65 * heat).round().astype(np.uint8)


def attention_strip(
    image: np.ndarray,
    attention: np.ndarray | Tensor,
    grid: tuple[int, int],
    scale: int | None = None,
) -> np.ndarray:
    """Attention of the class token: the mean of the heads, then each head.

    Args:
        image (np.ndarray): H×W×3 uint8.
        attention (np.ndarray | Tensor): h×L.
        grid (tuple[int, int]): Rows and columns.
        scale (int, optional): Whole factor of enlargement. Defaults to None.

    Returns:
        np.ndarray: H'×W'×3 uint8.
    """
    maps = torch.as_tensor(attention).float().cpu().numpy()
    scale = scale or default_scale(image.shape[:2], 200)
    images, titles = [smooth_enlarge(image, scale)], ['image']
    notes = [['[CLS] attends to …']]
    for name, weights in [('mean of heads', maps.mean(axis=0))] + [
        (f'head {number}', head) for number, head in enumerate(maps, 1)
    ]:
        images.append(draw_attention(image, weights, grid, scale))
        titles.append(name)
        tenth = np.sort(weights)[::-1][: max(1, weights.size // 10)].sum()
        notes.append([f'{tenth / max(weights.sum(), 1e-12):.0%} on a tenth of it'])
    columns = None if len(images) <= 7 else -(-len(images) // 2)
    return strip(images, titles, notes, columns)


def _grown(
    picture: np.ndarray, group: np.ndarray, grid: tuple[int, int], colours: np.ndarray
) -> np.ndarray:
    """Grey where a position stands alone, coloured where it has company."""
    company = (np.bincount(group) > 1)[group]
    labels = pixel_groups(group, grid, picture.shape[:2])
    merged = pixel_groups(company.astype(np.int64), grid, picture.shape[:2]) > 0
    blended = grey(picture)[..., None].repeat(3, axis=2).astype(np.float32)
    blended[merged] = 0.3 * blended[merged] + 0.7 * colours[merged]
    border = group_borders(labels)
    beside = dilate(merged, 3)
    blended[border & beside] = 255
    return blended.round().astype(np.uint8)


def shade_region(image: np.ndarray, region: np.ndarray) -> np.ndarray:
    """An image whose region lies under a flat colour.

    Args:
        image (np.ndarray): H×W×3 uint8.
        region (np.ndarray): H×W bool.

    Returns:
        np.ndarray: H×W×3 uint8.
    """
    tint = np.array((99, 102, 241))
    mixed = (0.25 * image + 0.75 * tint).round().astype(np.uint8)
    return np.where(region[..., None], mixed, image)
