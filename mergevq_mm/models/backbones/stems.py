"""From the image to the tokens: the first part of the encoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from mergevq_mm.base.module import BaseModule

from ..utils.convolution import (
    ResidualBlock,
    check_recompute,
    group_norm,
    run_stage,
)


class HybridStem(BaseModule):
    """Convolutional stages, each half the size of the one before (paper Fig. 2).

    Args:
        in_channels (int): Channels of the image.
        base_channels (int): Channels that the multipliers multiply (``ch``).
        channel_mult (Sequence[int]): Multiplier of each stage.
        num_res_blocks (int): Residual blocks a stage.
        norm_groups (int): Groups of the norms. Defaults to 32; a network narrower than
            64 channels learns better with fewer, as one channel a group hides how
            bright an image is.
        recompute_stages (int): Stages, from the full resolution down, whose inner maps
            are computed again in the backward pass instead of kept. Defaults to 0.
    """

    def __init__(
        self,
        in_channels: int,
        base_channels: int,
        channel_mult: Sequence[int],
        num_res_blocks: int,
        norm_groups: int = 32,
        recompute_stages: int = 0,
    ) -> None:
        super().__init__()
        self.recompute_stages = recompute_stages
        widths = [base_channels * mult for mult in channel_mult]
        self.out_channels = widths[-1]
        self.stage_channels = tuple(widths)
        self.stride = 1 << (len(widths) - 1)
        self.conv_in = nn.Conv2d(in_channels, base_channels, 3, padding=1, bias=False)
        self.stages = nn.ModuleList()
        self.downsamples = nn.ModuleList()
        before = base_channels
        for width in widths:
            blocks = [
                ResidualBlock(before if i == 0 else width, width, norm_groups)
                for i in range(num_res_blocks)
            ]
            self.stages.append(nn.Sequential(*blocks))
            before = width
        for width in widths[:-1]:
            self.downsamples.append(nn.Conv2d(width, width, 3, stride=2, padding=1))

    def forward(self, x: Tensor) -> list[Tensor]:
        """B×3×H×W to a map a stage, the last one B×D×H/f×W/f."""
        maps = []
        x = self.conv_in(x)
        for i, stage in enumerate(self.stages):
            x = run_stage(stage, x, i < self.recompute_stages)
            maps.append(x)
            if i < len(self.downsamples):
                x = self.downsamples[i](x)
        return maps


class PatchStem(BaseModule):
    """One strided convolution and a norm (R variant).

    Args:
        in_channels (int): Channels of the image.
        embed_dims (int): Width of the tokens, D.
        patch_size (int): Side of a patch in pixels.
        norm_groups (int, optional): Groups of the norm. Defaults to None, one a channel
            as in the authors' code, which hides how bright an image is and of what
            colour: the mean of each channel over the image is taken away.
    """

    def __init__(
        self,
        in_channels: int,
        embed_dims: int,
        patch_size: int,
        norm_groups: int | None = None,
    ) -> None:
        super().__init__()
        self.out_channels = embed_dims
        self.stage_channels = (embed_dims,)
        self.stride = patch_size
        self.projection = nn.Conv2d(in_channels, embed_dims, patch_size, patch_size)
        self.norm = group_norm(embed_dims, norm_groups or embed_dims)

    def forward(self, x: Tensor) -> list[Tensor]:
        """B×3×H×W to one map, B×D×H/f×W/f."""
        return [self.norm(self.projection(x))]


def build_stem(
    arch: dict[str, Any], in_channels: int, recompute_stages: int = 0
) -> HybridStem | PatchStem:
    """The stem of an architecture.

    Args:
        arch (dict): What ``read_architecture`` returns.
        in_channels (int): Channels of the image.
        recompute_stages (int): See :class:`HybridStem`; at most the stages of the stem,
            of which a 'patch' stem has none to recompute. Defaults to 0.

    Returns:
        HybridStem | PatchStem: By the architecture's ``stem``.

    Raises:
        ValueError: If there are no so many stages to recompute.
    """
    check_recompute(recompute_stages, len(arch.get('channel_mult', ())))
    if arch['stem'] == 'patch':
        return PatchStem(
            in_channels, arch['embed_dims'], arch['patch_size'], arch.get('norm_groups')
        )
    return HybridStem(
        in_channels,
        arch['base_channels'],
        arch['channel_mult'],
        arch.get('num_res_blocks', 4),
        arch.get('norm_groups', 32),
        recompute_stages,
    )
