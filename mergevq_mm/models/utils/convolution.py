"""Convolutional parts of the encoder and the decoder (MAGVIT-v2 style)."""

from __future__ import annotations

import math

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .norm_silu import norm_silu


def group_norm(channels: int, groups: int = 32, affine: bool = True) -> nn.GroupNorm:
    """GroupNorm with as many of the groups as divide the width; eps 1e-6."""
    groups = math.gcd(groups, channels)
    return nn.GroupNorm(groups, channels, eps=1e-6, affine=affine)


class ResidualBlock(nn.Module):
    """Norm, SiLU, 3×3 convolution, twice, beside a shortcut.

    Args:
        in_channels (int): Channels of the input.
        out_channels (int): Channels of the output; where they differ from the input's,
            the shortcut is a 1×1 convolution.
        norm_groups (int): Groups of the norms. Defaults to 32.
    """

    fused_norms = False  # see fuse_norms

    def __init__(
        self, in_channels: int, out_channels: int, norm_groups: int = 32
    ) -> None:
        super().__init__()
        self.norm1 = group_norm(in_channels, norm_groups)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
        self.norm2 = group_norm(out_channels, norm_groups)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.shortcut: nn.Module = nn.Identity()
        if in_channels != out_channels:
            self.shortcut = nn.Conv2d(in_channels, out_channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """B×C×H×W to B×C'×H×W."""
        hidden = self.conv1(norm_silu(self.norm1, x, self.fused_norms))
        hidden = self.conv2(norm_silu(self.norm2, hidden, self.fused_norms))
        out: Tensor = self.shortcut(x) + hidden
        return out


def run_stage(stage: nn.Module, x: Tensor, recompute: bool) -> Tensor:
    """Run residual blocks, keeping what lies between them for the backward pass or not.

    At full resolution a residual block keeps some ten maps of the size of its output.
    Recomputed, the stage keeps its input alone and runs forward twice in a training.

    Args:
        stage (nn.Module): Maps B×C×H×W to B×C'×H×W.
        x (Tensor): B×C×H×W.
        recompute (bool): Whether to compute the stage again in the backward pass.

    Returns:
        Tensor: B×C'×H×W, and gradients, as without.
    """
    if not (recompute and torch.is_grad_enabled()):
        out: Tensor = stage(x)
    else:  # nothing in a stage is random: no state of the random numbers goes along
        out = checkpoint(stage, x, use_reentrant=False, preserve_rng_state=False)
    return out


def check_recompute(recompute_stages: int, number: int) -> None:
    """Refuse to recompute stages that are not there."""
    if not 0 <= recompute_stages <= number:
        raise ValueError(
            f'recompute_stages={recompute_stages} lies outside [0, {number}]; give how '
            'many of the convolutional stages, from the full resolution down, to '
            'compute again in the backward pass.'
        )


class Upsample(nn.Module):
    """3×3 convolution to four times the channels, depth to space: twice the size."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 4 * channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """B×C×H×W to B×C×2H×2W."""
        # Channels are (block row, block column, channel), unlike F.pixel_shuffle's.
        hidden: Tensor = self.conv(x)
        return rearrange(hidden, 'b (i j c) h w -> b c (h i) (w j)', i=2, j=2)


class AdaptiveGroupNorm(nn.Module):
    """GroupNorm, scaled and shifted by the statistics of the code map.

    Args:
        channels (int): Channels of the map to normalise.
        code_channels (int): Channels of the code map, d.
        norm_groups (int): Groups of the norm. Defaults to 32.
    """

    def __init__(
        self, channels: int, code_channels: int, norm_groups: int = 32
    ) -> None:
        super().__init__()
        self.norm = group_norm(channels, norm_groups, affine=False)
        self.gamma = nn.Linear(code_channels, channels)
        self.beta = nn.Linear(code_channels, channels)
        # Start as a plain norm: random scales around 0 would mute the map each time.
        nn.init.normal_(self.gamma.weight, std=0.02)
        nn.init.ones_(self.gamma.bias)
        nn.init.normal_(self.beta.weight, std=0.02)
        nn.init.zeros_(self.beta.bias)

    def forward(self, x: Tensor, codes: Tensor) -> Tensor:
        """B×C×H×W and B×L×d to B×C×H×W."""
        unbiased = min(1, codes.shape[1] - 1)  # a single position has no spread
        scale = self.gamma((codes.var(dim=1, correction=unbiased) + 1e-6).sqrt())
        shift = self.beta(codes.mean(dim=1))
        out: Tensor = self.norm(x) * scale[..., None, None] + shift[..., None, None]
        return out
