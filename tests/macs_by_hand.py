"""Multiply-accumulate operations of the encoder, counted by hand.

They give the bound on what merging can save: the time without merging over the time
with it cannot, on the same hardware, exceed the ratio of the operations. Norms,
activations and the softmax are not counted, nor are biases; one multiply-accumulate is
two floating-point operations.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

MLP_RATIO = 4


def hybrid_stem_macs(
    size: tuple[int, int],
    base_channels: int,
    channel_mult: Sequence[int],
    num_res_blocks: int = 4,
    in_channels: int = 3,
) -> int:
    """Operations of the convolutional stages for one image.

    Args:
        size (tuple[int, int]): Height and width of the image in pixels.
        base_channels (int): Channels that the multipliers multiply.
        channel_mult (Sequence[int]): Multiplier of each stage.
        num_res_blocks (int): Residual blocks a stage. Defaults to 4.
        in_channels (int): Channels of the image. Defaults to 3.

    Returns:
        int: Multiply-accumulates.
    """
    area = size[0] * size[1]
    macs = 9 * in_channels * base_channels * area
    before = base_channels
    for stage, mult in enumerate(channel_mult):
        width = base_channels * mult
        first = 9 * before * width + 9 * width * width
        if before != width:
            first += before * width  # the shortcut is a 1×1 convolution
        macs += (first + (num_res_blocks - 1) * 18 * width * width) * area
        if stage + 1 < len(channel_mult):
            area //= 4
            macs += 9 * width * width * area  # the strided convolution
        before = width
    return macs


def block_macs(
    tokens: int, dim: int, num_heads: int, removed: int = 0, hidden: int | None = None
) -> dict[str, int]:
    """Operations of one merging block for one image.

    Args:
        tokens (int): Tokens that enter, T, with the class token.
        dim (int): Width, D.
        num_heads (int): Heads; the keys' mean over them is what matching compares.
        removed (int): Tokens that merging takes away, r. Defaults to 0.
        hidden (int, optional): Hidden width of the MLP. Defaults to None, 4 D.

    Returns:
        dict[str, int]: Multiply-accumulates of ``attention`` (projections and both
        products, T tokens), ``mlp`` (T - r tokens), ``matching`` (similarities of the
        two sides) and ``merging`` (the product that adds up the groups).
    """
    hidden = MLP_RATIO * dim if hidden is None else hidden
    side_a, side_b = (tokens + 1) // 2, tokens // 2
    return {
        'attention': 4 * tokens * dim * dim + 2 * tokens * tokens * dim,
        'mlp': 2 * (tokens - removed) * dim * hidden,
        'matching': side_a * side_b * (dim // num_heads) if removed else 0,
        'merging': side_b * removed * (dim + 1),  # features, and sizes
    }


def encoder_macs(
    arch: Mapping[str, Any],
    size: tuple[int, int],
    removed: Sequence[int],
    in_channels: int = 3,
) -> dict[str, int]:
    """Operations of ``MergeVQEncoder.encode`` for one image, by part.

    Args:
        arch (Mapping): The encoder's ``arch`` as a dict, such as
            ``MergeVQEncoder.arch_zoo['g-d64']``.
        size (tuple[int, int]): Height and width of the image in pixels.
        removed (Sequence[int]): Tokens that each block merges, from
            :func:`merge_schedule`; zeros for no merging.
        in_channels (int): Channels of the image. Defaults to 3.

    Returns:
        dict[str, int]: Multiply-accumulates of ``stem``, ``attention``, ``mlp``,
        ``matching`` and ``merging``.

    Raises:
        ValueError: If ``removed`` has not one number for each block.
    """
    if len(removed) != arch['num_layers']:
        raise ValueError(
            f'removed={list(removed)} has {len(removed)} numbers; give one for each of '
            f'the {arch["num_layers"]} blocks.'
        )
    if arch['stem'] == 'hybrid':
        mult = arch['channel_mult']
        dim, stride = arch['base_channels'] * mult[-1], 2 ** (len(mult) - 1)
        blocks = arch.get('num_res_blocks', 4)
        stem = hybrid_stem_macs(size, arch['base_channels'], mult, blocks, in_channels)
    else:
        dim, stride = arch['embed_dims'], arch['patch_size']
        stem = in_channels * dim * size[0] * size[1]
    macs = {'stem': stem, 'attention': 0, 'mlp': 0, 'matching': 0, 'merging': 0}
    tokens = 1 + (size[0] // stride) * (size[1] // stride)
    for r in removed:
        for part, number in block_macs(tokens, dim, arch['num_heads'], r).items():
            macs[part] += number
        tokens -= r
    return macs


def merging_bound(plain: Mapping[str, int], merged: Mapping[str, int]) -> float:
    """Largest speed-up that merging can reach: unmerged over merged operations.

    Matching and merging themselves are the price, not the work, and do not count.

    Args:
        plain (Mapping[str, int]): Operations by part without merging.
        merged (Mapping[str, int]): Operations by part with it; a part that both leave
            out, such as ``stem``, is left out of the bound.

    Returns:
        float: At least 1.
    """
    parts = [name for name in plain if name not in ('matching', 'merging')]
    return sum(plain[name] for name in parts) / sum(merged[name] for name in parts)
