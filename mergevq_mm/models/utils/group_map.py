"""The source matrix S as a map of L integers (paper section 3.2).

``group[b, l]`` is the index of the token that stands for raster position ``l``. Column
``l`` of the dense S in {0, 1}^{K×L} is the one-hot vector of ``group[l]``.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def recover_tokens(tokens: Tensor, group: Tensor) -> Tensor:
    """Put each token back on all the positions that it stands for: Sᵀ Z.

    The gradient of a token is the sum over its positions.

    Args:
        tokens (Tensor): B×K×D.
        group (Tensor): B×L int64, values in [0, K).

    Returns:
        Tensor: B×L×D.
    """
    return tokens.gather(1, group.unsqueeze(-1).expand(-1, -1, tokens.shape[-1]))


def first_occurrence(group: Tensor, keep: int) -> Tensor:
    """First raster position of each group.

    Args:
        group (Tensor): B×L int64, values in [0, K).
        keep (int): Number of groups, K.

    Returns:
        Tensor: B×K int64; L for a group that no position belongs to.
    """
    batch, length = group.shape
    position = torch.arange(length, device=group.device).expand(batch, length)
    empty = torch.full((batch, keep), length, dtype=torch.int64, device=group.device)
    return empty.scatter_reduce(1, group, position, reduce='amin')


def raster_order(group: Tensor, keep: int) -> tuple[Tensor, Tensor]:
    """Number the groups by their first raster occurrence.

    Args:
        group (Tensor): B×L int64 in any numbering of K groups.
        keep (int): Number of groups, K.

    Returns:
        tuple[Tensor, Tensor]: The map in the new numbering, B×L, and for each new
        number the old one, B×K: ``tokens_new = tokens_old.gather(1, old)``.
    """
    old = first_occurrence(group, keep).argsort(dim=1, stable=True)
    new = torch.empty_like(old).scatter_(
        1, old, torch.arange(keep, device=group.device).expand_as(old)
    )
    return new.gather(1, group), old


def group_sizes(group: Tensor, keep: int) -> Tensor:
    """Number of positions of each group, B×K int64."""
    zeros = torch.zeros(group.shape[0], keep, dtype=torch.int64, device=group.device)
    return zeros.scatter_add(1, group, torch.ones_like(group))


def source_matrix(group: Tensor, keep: int) -> Tensor:
    """The dense source matrix S, B×K×L float, for those who want to see it."""
    return F.one_hot(group, keep).transpose(1, 2).float()
