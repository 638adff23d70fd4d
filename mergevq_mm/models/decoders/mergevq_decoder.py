"""The decoder of MergeVQ: codes on the grid to an image (paper section 3.1)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from mergevq_mm.base.module import BaseModule
from mergevq_mm.registry import MODELS

from ..utils.attention import GridBlock, init_transformer
from ..utils.convolution import (
    AdaptiveGroupNorm,
    ResidualBlock,
    Upsample,
    check_recompute,
    group_norm,
    run_stage,
)
from ..utils.norm_silu import norm_silu


@MODELS.register_module()
class MergeVQDecoder(BaseModule):
    """Codes on the grid to an image: attention, then convolutional stages upwards.

    The mirror of the hybrid encoder without merging and class token. A residual
    depth-wise convolution gives the attention its positions, and each stage starts with
    a GroupNorm that the statistics of the codes scale and shift.

    Args:
        bits (int): Width of the codes, d. Defaults to 18.
        base_channels (int): Channels that the multipliers multiply. Defaults to 64.
        channel_mult (Sequence[int]): Multiplier of each stage, from the full resolution
            down, as in the encoder. Defaults to (1, 1, 2, 4, 8).
        num_res_blocks (int): Residual blocks a stage; every stage below the full
            resolution has one more. Defaults to 4.
        num_layers (int): Attention blocks. Defaults to 12.
        num_heads (int): Heads. Defaults to 8.
        layer_scale (float): Initial LayerScale. Defaults to 1e-5.
        norm_groups (int): Groups of the norms. Defaults to 32.
        out_channels (int): Channels of the image. Defaults to 3.
        recompute_stages (int): Stages, from the full resolution down, whose inner maps
            are computed again in the backward pass instead of kept: less memory, a
            second forward pass of them. Defaults to 0.
        init_cfg (dict, optional): Initialization. Defaults to None.
    """

    fused_norms = False  # see fuse_norms

    def __init__(
        self,
        bits: int = 18,
        base_channels: int = 64,
        channel_mult: Sequence[int] = (1, 1, 2, 4, 8),
        num_res_blocks: int = 4,
        num_layers: int = 12,
        num_heads: int = 8,
        layer_scale: float = 1e-5,
        norm_groups: int = 32,
        out_channels: int = 3,
        recompute_stages: int = 0,
        init_cfg: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(init_cfg)
        widths = [base_channels * mult for mult in channel_mult]
        dim = widths[-1]
        check_recompute(recompute_stages, len(widths))
        self.recomputed_from = len(widths) - recompute_stages
        self.bits = bits
        self.stride = 1 << (len(widths) - 1)
        self.conv_in = nn.Conv2d(bits, dim, 3, padding=1)
        self.position = nn.Conv2d(dim, dim, 3, padding=1, groups=dim)
        self.layers = nn.ModuleList(
            GridBlock(dim, num_heads, layer_scale=layer_scale)
            for _ in range(num_layers)
        )
        # Stages stand in the order in which they run, the coarsest first.
        self.adaptive_norms = nn.ModuleList()
        self.stages = nn.ModuleList()
        self.upsamples = nn.ModuleList()
        before = dim
        for level, width in reversed(list(enumerate(widths))):
            self.adaptive_norms.append(AdaptiveGroupNorm(before, bits, norm_groups))
            number = num_res_blocks + (level > 0)
            self.stages.append(
                nn.Sequential(
                    *(
                        ResidualBlock(before if i == 0 else width, width, norm_groups)
                        for i in range(number)
                    )
                )
            )
            if level > 0:
                self.upsamples.append(Upsample(width))
            before = width
        self.norm_out = group_norm(before, norm_groups)
        self.conv_out = nn.Conv2d(before, out_channels, 3, padding=1)
        init_transformer(self.layers)

    def forward(self, codes: Tensor, grid: tuple[int, int]) -> Tensor:
        """Decode codes to images.

        Args:
            codes (Tensor): Codes in {-1, 1} on all raster positions, B×L×d.
            grid (tuple[int, int]): Rows and columns, rows * columns = L.

        Returns:
            Tensor: Images, about in [-1, 1], B×3×(f·rows)×(f·columns).

        Raises:
            ValueError: If the codes fit neither the grid nor ``bits``.
        """
        if codes.shape[1:] != (grid[0] * grid[1], self.bits):
            raise ValueError(
                f'codes of shape {tuple(codes.shape)} do not fit a grid of '
                f'{grid[0]}x{grid[1]} positions of {self.bits} bits; recover the K '
                'tokens to L positions first.'
            )
        x = self.conv_in(codes.transpose(1, 2).unflatten(2, grid))  # B×L×d -> B×D×h×w
        x = (x + self.position(x)).flatten(2).transpose(1, 2)  # B×L×D
        for layer in self.layers:
            x = layer(x, grid)
        x = x.transpose(1, 2).unflatten(2, grid)  # B×D×h×w
        for i, stage in enumerate(self.stages):
            x = self.adaptive_norms[i](x, codes)
            x = run_stage(stage, x, i >= self.recomputed_from)
            if i < len(self.upsamples):
                x = self.upsamples[i](x)
        images: Tensor = self.conv_out(norm_silu(self.norm_out, x, self.fused_norms))
        return images
