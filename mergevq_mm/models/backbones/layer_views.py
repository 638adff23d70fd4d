"""Looking into the encoder's blocks: the groups after each, and what [CLS] attends to.

Pure functions beside the encoder: nothing is stored in it, and who does not call them
pays nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from ..utils.attention import MergingBlock
from ..utils.group_map import in_raster_order
from ..utils.precision import no_autocast
from ..utils.structures import MergedTokens
from ..utils.token_merging import follow_merges
from .mergevq_encoder import MergeVQEncoder


def merged_layers(
    encoder: MergeVQEncoder,
    images: Tensor,
    keep: int | float | None = None,
    removed: Sequence[int] | None = None,
) -> Iterator[MergedTokens]:
    """Encode images and hand out the merged tokens after each block.

    Args:
        encoder (MergeVQEncoder): The encoder.
        images (Tensor): B×3×H×W.
        keep (int | float, optional): Tokens to keep at the end, K, or their share of L.
            Defaults to None, all.
        removed (Sequence[int], optional): Instead, how many tokens to merge in each
            block. Defaults to None.

    Yields:
        MergedTokens: After block 0, 1, …; the last one is what ``encode`` returns.

    Raises:
        ValueError: If the stride does not divide the image, or K cannot be reached.
    """
    x, grid = encoder.embed(images)
    size, matches = None, ()
    plan = encoder.plan(grid, keep, removed)
    for block, r in zip(encoder.layers, plan, strict=True):
        x, size, matches = block(x, size, matches, r)
        group = follow_merges(x, matches, grid[0] * grid[1])
        yield in_raster_order(x, size, group, grid)


def class_attention(
    encoder: MergeVQEncoder,
    images: Tensor,
    keep: int | float | None = None,
    layer: int = -1,
) -> Tensor:
    """How much the class token attends to each raster position in one block.

    A token that stands for several positions shares its weight equally among them, so
    that maps with and without merging can be compared. What is missing to a sum of 1 is
    the class token's attention to itself.

    Args:
        encoder (MergeVQEncoder): The encoder.
        images (Tensor): B×3×H×W.
        keep (int | float, optional): As of :func:`merged_layers`. Defaults to None.
        layer (int): Block, counted from the end where negative. Defaults to -1.

    Returns:
        Tensor: B×h×L float32, h heads; each row sums to less than 1.

    Raises:
        ValueError: If there is no such block, or as of :func:`merged_layers`.
    """
    if not -encoder.num_layers <= layer < encoder.num_layers:
        raise ValueError(
            f'layer={layer} is no block of this encoder; give one from '
            f'{-encoder.num_layers} to {encoder.num_layers - 1}.'
        )
    x, grid = encoder.embed(images)
    size, matches = None, ()
    plan = encoder.plan(grid, keep)
    wanted = layer % encoder.num_layers
    for block, r in zip(encoder.layers[:wanted], plan[:wanted], strict=True):
        x, size, matches = block(x, size, matches, r)
    block = encoder.layers[wanted]
    assert isinstance(block, MergingBlock)
    weights = attention_of_first(
        block.norm1(x), block.attn.qkv, block.attn.num_heads, size
    )  # B×h×T
    count = torch.ones_like(weights[:, 0]) if size is None else size.float()
    share = weights / count.unsqueeze(1)
    group = follow_merges(x, matches, grid[0] * grid[1])
    positions = group.unsqueeze(1).expand(-1, share.shape[1], -1)  # B×h×L
    return share.gather(2, positions)


def attention_of_first(
    x: Tensor, qkv: torch.nn.Linear, num_heads: int, size: Tensor | None = None
) -> Tensor:
    """Attention weights of the first token, proportional to the sizes of the tokens.

    Args:
        x (Tensor): Normed tokens, B×T×D.
        qkv (nn.Linear): Makes queries, keys and values, D to 3D.
        num_heads (int): Heads, h.
        size (Tensor, optional): Positions that each token stands for, B×T. Defaults to
            None, all the same.

    Returns:
        Tensor: B×h×T float32; each row sums to 1.
    """
    batch, length, dim = x.shape
    projected = qkv(x).view(batch, length, 3, num_heads, dim // num_heads)
    query, key, _ = projected.permute(2, 0, 3, 1, 4).float()  # each B×h×T×D/h
    with no_autocast(x):
        scores = query[:, :, :1] @ key.transpose(2, 3)  # B×h×1×T
    scores = scores.squeeze(2) / (dim // num_heads) ** 0.5
    if size is not None:
        scores = scores + size.float().log().unsqueeze(1)
    weights: Tensor = scores.softmax(dim=-1)
    return weights
