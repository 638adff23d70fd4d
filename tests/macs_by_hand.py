"""Multiply-accumulates of the encoder by formulas, for comparison with the counter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def stem_macs(arch: Mapping[str, Any], size: tuple[int, int]) -> int:
    """Convolutions of a stem for one image of height and width in pixels."""
    area = size[0] * size[1]
    if arch['stem'] == 'patch':
        return 3 * arch['embed_dims'] * area
    before, blocks = arch['base_channels'], arch.get('num_res_blocks', 4)
    macs = 9 * 3 * before * area
    for stage, mult in enumerate(arch['channel_mult']):
        width = arch['base_channels'] * mult
        first = 9 * before * width + 9 * width * width
        if before != width:
            first += before * width  # the shortcut is a 1×1 convolution
        macs += (first + (blocks - 1) * 18 * width * width) * area
        if stage + 1 < len(arch['channel_mult']):
            area //= 4
            macs += 9 * width * width * area  # the strided convolution
        before = width
    return macs


def block_macs(tokens: int, dim: int, num_heads: int, removed: int) -> dict[str, int]:
    """One block: T tokens with the class token enter, r of them go."""
    side_a, side_b = (tokens - 1) // 2, tokens // 2
    return {
        'attention': 4 * tokens * dim * dim + 2 * tokens * tokens * dim,
        'mlp': 8 * (tokens - removed) * dim * dim,
        'matching': side_a * side_b * (dim // num_heads) if removed else 0,
        'merging': side_b * removed * (dim + 1),  # features, and sizes
    }


def encoder_macs(
    arch: Mapping[str, Any], size: tuple[int, int], removed: Sequence[int]
) -> dict[str, int]:
    """``MergeVQEncoder.encode`` of one image, by part; ``removed`` block by block."""
    dim, stride = arch.get('embed_dims'), arch.get('patch_size')
    if arch['stem'] == 'hybrid':
        mult = arch['channel_mult']
        dim, stride = arch['base_channels'] * mult[-1], 2 ** (len(mult) - 1)
    macs = {'attention': 0, 'mlp': 0, 'matching': 0, 'merging': 0}
    tokens = 1 + (size[0] // stride) * (size[1] // stride)
    for r in removed:
        for part, number in block_macs(tokens, dim, arch['num_heads'], r).items():
            macs[part] += number
        tokens -= r
    return {'stem': stem_macs(arch, size), **macs}
