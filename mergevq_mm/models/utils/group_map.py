"""The source matrix S as a map of L integers (paper section 3.2).

``group[b, l]`` is the index of the token that stands for raster position ``l``. Column
``l`` of the dense S in {0, 1}^{K×L} is the one-hot vector of ``group[l]``.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from .precision import no_autocast
from .structures import MergedTokens


def recover_tokens(tokens: Tensor, group: Tensor) -> Tensor:
    """Put each token back on all the positions that it stands for: Sᵀ Z.

    The gradient of a token is the sum over its positions. On a GPU that of ``gather``
    adds them up by atomics, in another order at each run; there it is computed by a
    product with S instead, which costs B·K·L·D multiplications and the memory of S, and
    gives the same numbers in each run.

    Args:
        tokens (Tensor): B×K×D.
        group (Tensor): B×L int64, values in [0, K).

    Returns:
        Tensor: B×L×D.
    """
    if tokens.is_cuda and tokens.requires_grad and torch.is_grad_enabled():
        # torch gives `apply` no types.
        out: Tensor = RecoverInOrder.apply(tokens, group)  # type: ignore[no-untyped-call]
        return out
    return tokens.gather(1, group.unsqueeze(-1).expand(-1, -1, tokens.shape[-1]))


class RecoverInOrder(torch.autograd.Function):
    """:func:`recover_tokens` whose gradient sums in a fixed order on any device."""

    @staticmethod
    def forward(ctx: Any, tokens: Tensor, group: Tensor) -> Tensor:
        """B×K×D and B×L to B×L×D."""
        ctx.save_for_backward(group)
        ctx.keep = tokens.shape[1]
        return tokens.gather(1, group.unsqueeze(-1).expand(-1, -1, tokens.shape[-1]))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        """Gradient B×L×D of the positions to that of the tokens, B×K×D."""
        (group,) = ctx.saved_tensors
        number = torch.arange(ctx.keep, device=group.device)
        with no_autocast(grad):
            source = (group.unsqueeze(1) == number.unsqueeze(-1)).to(grad.dtype)
            return source @ grad, None  # B×K×L @ B×L×D


@torch.no_grad()
def source_accuracy(
    predicted: Tensor, group: Tensor, index: Tensor | None = None
) -> Tensor:
    """Share of raster positions that a predicted map assigns rightly, per image.

    Two tokens with one code cannot be told apart and decode to the same image, so with
    their codes a position counts as right if its predicted token has the right code.

    Args:
        predicted (Tensor): Predicted token of each position, B×L int64.
        group (Tensor): True token of each position, B×L int64.
        index (Tensor, optional): Index of the code of each token, B×K int64. Defaults
            to None: the token itself must be right.

    Returns:
        Tensor: B float32 in [0, 1].

    Raises:
        ValueError: If the two maps differ in shape.
    """
    if predicted.shape != group.shape:
        raise ValueError(
            f'predicted {tuple(predicted.shape)} and group {tuple(group.shape)} differ '
            'in shape; give two maps of the same rasters.'
        )
    if index is not None:
        predicted, group = index.gather(1, predicted), index.gather(1, group)
    return (predicted == group).float().mean(dim=1)


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


def in_raster_order(
    x: Tensor, size: Tensor | None, group: Tensor, grid: tuple[int, int]
) -> MergedTokens:
    """What merging has left, in raster order and without the class token.

    Args:
        x (Tensor): The class token, then K tokens in any order, B×(1+K)×D.
        size (Tensor, optional): Positions of each, B×(1+K). None: none has merged.
        group (Tensor): Token of each position, the class token counted, B×L int64.
        grid (tuple[int, int]): Rows and columns of the L positions.

    Returns:
        MergedTokens: Numbered by the first raster position of each.
    """
    cls, tokens = x[:, 0], x[:, 1:]
    group = group - 1  # positions were counted with the class token
    if size is not None:
        group, old = raster_order(group, tokens.shape[1])
        tokens = recover_tokens(tokens, old)
    return MergedTokens(cls, tokens, group, group_sizes(group, tokens.shape[1]), grid)


def source_matrix(group: Tensor, keep: int) -> Tensor:
    """The dense source matrix S, B×K×L float, for those who want to see it."""
    return F.one_hot(group, keep).transpose(1, 2).float()
