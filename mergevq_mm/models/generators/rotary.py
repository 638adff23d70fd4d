"""Rotary position factors on a grid.

Adjacent channels form the pairs that are turned; the first half of a head's channels
turns with the row, the second half with the column.
"""

from __future__ import annotations

import torch
from torch import Tensor


def grid_positions(rows: int, columns: int) -> Tensor:
    """Row and column of each raster position, (rows·columns)×2 int64."""
    position = torch.arange(rows * columns)
    return torch.stack([position // columns, position % columns], dim=1)


def rank_positions(number: int) -> Tensor:
    """Places of K ranked slots on a grid of ⌈√K⌉ columns, K×2 int64."""
    columns = next(c for c in range(1, number + 1) if c * c >= number)
    return grid_positions(-(-number // columns), columns)[:number]


def rotary_factors(positions: Tensor, head_dim: int, base: float = 10000.0) -> Tensor:
    """Cosine and sine for each channel pair of a head.

    Args:
        positions (Tensor): …×2 rows and columns.
        head_dim (int): Channels of a head, a multiple of 4.
        base (float): Of the geometric series of frequencies. Defaults to 10000.

    Returns:
        Tensor: …×(head_dim/2)×2 float32.

    Raises:
        ValueError: If ``head_dim`` is no multiple of 4.
    """
    if head_dim % 4:
        raise ValueError(
            f'head_dim={head_dim} is no multiple of 4, as rotary positions in two '
            'directions need; choose another width or number of heads.'
        )
    half = head_dim // 2
    exponent = torch.arange(0, half, 2, device=positions.device).float() / half
    angle = positions.float().unsqueeze(-1) * base**-exponent  # …×2×(head_dim/4)
    angle = angle.flatten(-2)  # rows first, then columns
    return torch.stack([angle.cos(), angle.sin()], dim=-1)


def no_position(number: int, head_dim: int) -> Tensor:
    """Factors of zero: queries and keys of these places vanish.

    The released generator has them at its class token, so that every later token
    attends to it with the same logit, 0.
    """
    return torch.zeros(number, head_dim // 2, 2)


def rotate(x: Tensor, factors: Tensor) -> Tensor:
    """Turn the channel pairs of queries or keys.

    Pairs of channels are complex numbers, and turning is one multiplication. The
    compiler fuses real numbers better, and where a head has no whole number of vectors
    of 8 pairs, the processor rounds a complex product's last ones otherwise.

    Args:
        x (Tensor): B×H×n×c, or any shape that ends in n×c.
        factors (Tensor): n×(c/2)×2, or B×n×(c/2)×2 for positions that differ between
            samples.

    Returns:
        Tensor: Of the shape and type of ``x``.
    """
    return _turned(x.float(), _of_heads(factors)).to(x.dtype)


def rotate_(x: Tensor, factors: Tensor) -> None:
    """Do what :func:`rotate` does in the memory of ``x``."""
    factors = _of_heads(factors)
    if x.dtype == torch.float32 and _as_complex(factors):
        _pairs(x).mul_(torch.view_as_complex(factors))
    else:
        x.copy_(_turned(x.float(), factors))


def _turned(x: Tensor, factors: Tensor) -> Tensor:
    """Turn float32 numbers."""
    if _as_complex(factors):
        turned = _pairs(x) * torch.view_as_complex(factors)
        return torch.view_as_real(turned).flatten(-2)
    cos, sin = factors.unbind(-1)
    even, odd = x.unflatten(-1, (-1, 2)).unbind(-1)
    turned = torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1)
    return turned.flatten(-2)


def _of_heads(factors: Tensor) -> Tensor:
    """The factors of a sample for all of its heads."""
    return factors.unsqueeze(1) if factors.dim() == 4 else factors


def _pairs(x: Tensor) -> Tensor:
    """…×c real numbers as …×(c/2) complex ones, the same memory."""
    return torch.view_as_complex(x.unflatten(-1, (-1, 2)))


def _as_complex(factors: Tensor) -> bool:
    """Whether complex numbers are fast and equal to the bit."""
    return factors.shape[-2] % 8 == 0 and not torch.compiler.is_compiling()
