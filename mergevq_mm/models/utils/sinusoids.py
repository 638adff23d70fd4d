"""Sines and cosines of a number, at frequencies from 1 to 1/10000."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def sinusoids(number: Tensor, dims: int) -> Tensor:
    """Features of numbers such as ranks and places, as of transformers' positions.

    Args:
        number (Tensor): Any shape.
        dims (int): Number of features, D; even.

    Returns:
        Tensor: The shape, and D; float32: D/2 sines, then as many cosines.
    """
    exponent = torch.arange(dims // 2, device=number.device) / (dims // 2)
    angle = number.float().unsqueeze(-1) * torch.exp(-math.log(10000) * exponent)
    return torch.cat([angle.sin(), angle.cos()], dim=-1)
