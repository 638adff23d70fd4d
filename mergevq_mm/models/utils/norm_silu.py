"""GroupNorm and SiLU as one, in the layout of the map that they are given.

torch's GroupNorm hands on a contiguous map on a GPU, whatever it gets; in a network
whose convolutions run in channels-last two copies come to each pair. What is written
here stays in the map's layout. It is meant for a compiler, which fuses it; as it is, it
is slow, and only there to be compared with.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._triton import has_triton

BACKEND = 'inductor'
DEVICES = ('cuda',)
SWITCH = 'fused_norms'  # attribute of the modules that have such pairs
Network = TypeVar('Network', bound=nn.Module)


def norm_silu(norm: nn.GroupNorm, x: Tensor, fused: bool) -> Tensor:
    """Normalise and activate.

    Args:
        norm (nn.GroupNorm): With weights.
        x (Tensor): B×C×H×W.
        fused (bool): Whether a GPU may compile the pair, which keeps the layout.

    Returns:
        Tensor: B×C×H×W; of the pair under autocast in the type of ``x``, which is what
        the convolution behind it makes of it anyway.
    """
    if fused and x.device.type in DEVICES:
        run = normed_silu if torch.compiler.is_compiling() else compiled(BACKEND)
        return run(x, norm.num_groups, norm.weight, norm.bias, norm.eps)
    return F.silu(norm(x))


def normed_silu(
    x: Tensor, groups: int, weight: Tensor, bias: Tensor, eps: float
) -> Tensor:
    """The pair by its definition, computed in float32.

    Args:
        x (Tensor): B×C×H×W in any layout.
        groups (int): That divide the channels.
        weight (Tensor): C.
        bias (Tensor): C.
        eps (float): Added to the variance.

    Returns:
        Tensor: B×C×H×W of the layout and type of ``x``.
    """
    parts = x.float().unflatten(1, (groups, -1))  # B×G×C/G×H×W, no copy
    var, mean = torch.var_mean(parts, dim=(2, 3, 4), correction=0, keepdim=True)
    normed = ((parts - mean) * (var + eps).rsqrt()).flatten(1, 2)
    normed = normed * weight[:, None, None] + bias[:, None, None]
    return F.silu(normed).to(x.dtype)


@cache
def compiled(backend: str) -> Callable[..., Tensor]:
    """The pair behind a compiler, one a process; torch's own where there is none."""
    if backend == 'inductor' and not has_triton():
        return plain
    fast = torch.compile(normed_silu, backend=backend)
    failed: list[Exception] = []

    def run(x: Tensor, *arguments: Any) -> Tensor:
        if not failed:
            try:
                return fast(x, *arguments)
            except torch.OutOfMemoryError:
                raise
            except Exception as error:  # of a compiler that lacks something
                failed.append(error)
                warnings.warn(
                    'GroupNorm and SiLU cannot be compiled here, and run as two '
                    f'operators: {type(error).__name__}: {error}',
                    RuntimeWarning,
                )
        return plain(x, *arguments)

    return run


def plain(x: Tensor, groups: int, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """The pair by torch's two operators."""
    return F.silu(F.group_norm(x, groups, weight, bias, eps))


def fuse_norms(model: Network) -> Network:
    """Let the convolutional blocks of a model compile their pairs, in place."""
    for module in model.modules():
        if hasattr(type(module), SWITCH):
            setattr(module, SWITCH, True)
    return model
