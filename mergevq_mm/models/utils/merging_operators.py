"""What merging does beside products, as operators of torch of one kernel each.

The functions here are made of torch's operators and run anywhere. On a GPU with Triton
the kernels of :mod:`.merging_kernels` take their place, which read and write each token
once: there a layer's merging starts two kernels where the functions start a dozen. The
functions are the kernels' reference, and what runs where a kernel cannot.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map
from torch.utils._triton import has_triton

from .precision import no_autocast

DEVICES = ('cuda',)
Pairs = tuple[Tensor, Tensor, Tensor]  # kept, merged and target of a `Matching`
_failed: set[str] = set()


def has_kernels(like: Tensor) -> bool:
    """Whether there are kernels for a device and a precision."""
    return like.device.type in DEVICES and like.dtype != torch.float64


# --------------------------------------------------------------------- the references


def pairs_by_sorting(best: Tensor, partner: Tensor, r: int) -> Pairs:
    """Take the r most similar pairs; see :class:`.token_merging.Matching`.

    Args:
        best (Tensor): Similarity of each token of A to its partner, B×a float32; of
            equal ones the first is taken, and what is not a number is the largest.
        partner (Tensor): Its partner's position in B, B×a int64.
        r (int): Pairs to take.

    Returns:
        tuple[Tensor, Tensor, Tensor]: Kept, merged and target.
    """
    ranked = best.argsort(dim=-1, descending=True, stable=True)
    merged = ranked[:, :r]
    return ranked[:, r:].sort(dim=-1).values, merged, partner.gather(1, merged)


def means_by_sums(
    tokens: Tensor, size: Tensor | None, kept: Tensor, merged: Tensor, target: Tensor
) -> tuple[Tensor, Tensor]:
    """Means and sizes of the groups; see :func:`.token_merging.merge_tokens`."""
    if size is None:
        one = torch.ones(1, 1, 1, dtype=torch.float32, device=tokens.device)
        parts = [tokens, one.expand(*tokens.shape[:2], 1)]
    else:
        size = size.unsqueeze(-1)
        parts = [tokens * size, size]
    # Sums of members with their weight as one more channel: one gather moves both.
    sums = torch.cat(parts, dim=-1)  # B×T×(D+1)
    a, b = sums[:, 2::2], sums[:, 1::2]
    b = add_rows(b, target, take_rows(a, merged))
    sums = torch.cat([sums[:, :1], take_rows(a, kept), b], dim=1)
    weight = sums[..., -1].detach()
    mean = sums[..., :-1] / weight.unsqueeze(-1)
    return mean.to(tokens.dtype), weight


def gradient_by_places(
    grad: Tensor,
    size: Tensor | None,
    weight: Tensor,
    kept: Tensor,
    merged: Tensor,
    target: Tensor,
) -> Tensor:
    """Gradient of the tokens, B×T×D, from that of the means of their groups.

    A token's is that of its group's mean, times its share of the group's size.
    """
    share = grad / weight.unsqueeze(-1)
    stay = 1 + kept.shape[1]
    one, a, b = share[:, :1], share[:, 1:stay], share[:, stay:]
    out = share.new_empty(len(grad), stay + b.shape[1] + merged.shape[1], grad.shape[2])
    out[:, :1], out[:, 1::2] = one, b
    members = torch.cat([a, take_rows(b, target)], dim=1)
    places = _wide(torch.cat([kept, merged], dim=1), grad.shape[2])
    out[:, 2::2] = torch.empty_like(members).scatter_(1, places, members)
    if size is not None:
        out = out * size.unsqueeze(-1)
    return out.to(grad.dtype)


def add_rows(base: Tensor, target: Tensor, rows: Tensor) -> Tensor:
    """Add rows to those that they belong to, in a fixed order.

    ``scatter_add`` goes through the rows one after another on a CPU, but by atomics, in
    another order at each run, on a GPU; there, and on any other device, a product with
    the one-hot matrix of ``target`` does it.

    Args:
        base (Tensor): B×n×D.
        target (Tensor): Row of ``base`` that each of the rows is added to, B×r int64.
        rows (Tensor): B×r×D.

    Returns:
        Tensor: B×n×D, differentiable in ``base`` and ``rows``.
    """
    if base.device.type == 'cpu':
        return base.scatter_add(1, _wide(target, rows.shape[-1]), rows)
    return add_rows_by_product(base, target, rows)


def add_rows_by_product(base: Tensor, target: Tensor, rows: Tensor) -> Tensor:
    """:func:`add_rows` by a product, which has one order on any device."""
    shape = (*target.shape, base.shape[1])
    one_hot = torch.zeros(shape, dtype=rows.dtype, device=rows.device)  # B×r×n
    one_hot.scatter_(2, target.unsqueeze(-1), 1.0)
    with no_autocast(base):
        return torch.baddbmm(base, one_hot.transpose(1, 2), rows)


def take_rows(tokens: Tensor, position: Tensor) -> Tensor:
    """Tokens at the given positions: B×T×D, B×n -> B×n×D."""
    return tokens.gather(1, _wide(position, tokens.shape[-1]))


def _wide(index: Tensor, width: int) -> Tensor:
    """The same index for each channel: B×n -> B×n×D."""
    return index.unsqueeze(-1).expand(-1, -1, width)


# ---------------------------------------------------------------------- the operators


@cache
def kernels() -> ModuleType | None:
    """The kernels; None where there is no Triton."""
    if not has_triton():
        return None
    from . import merging_kernels

    return merging_kernels


def by_kernel(name: str, reference: Callable[..., Any]) -> Callable[..., Any]:
    """What runs a kernel on a GPU; its reference elsewhere, and once it has failed."""

    def run(*arguments: Any) -> Any:
        on_gpu = arguments[0].device.type in DEVICES
        if on_gpu and name not in _failed and kernels() is not None:
            try:
                return getattr(kernels(), name)(*arguments)
            except torch.OutOfMemoryError:
                raise
            except Exception as error:  # of a compiler that lacks something
                _failed.add(name)
                warnings.warn(
                    f"Triton's kernel of '{name}' does not run here, and torch's "
                    f'operators do its work: {type(error).__name__}: {error}',
                    RuntimeWarning,
                )
        return tree_map(Tensor.contiguous, reference(*arguments))

    return run


split_pairs = torch.library.custom_op(
    'mergevq_mm::split_pairs',
    by_kernel('pairs', pairs_by_sorting),
    mutates_args=(),
    schema='(Tensor best, Tensor partner, int r) -> (Tensor, Tensor, Tensor)',
)
merge_groups = torch.library.custom_op(
    'mergevq_mm::merge_groups',
    by_kernel('means', means_by_sums),
    mutates_args=(),
    schema='(Tensor tokens, Tensor? size, Tensor kept, Tensor merged, Tensor target)'
    ' -> (Tensor, Tensor)',
)
spread_gradient = torch.library.custom_op(
    'mergevq_mm::spread_gradient',
    by_kernel('gradient', gradient_by_places),
    mutates_args=(),
    schema='(Tensor grad, Tensor? size, Tensor weight, Tensor kept, Tensor merged, '
    'Tensor target) -> Tensor',
)


@split_pairs.register_fake
def _(best: Tensor, partner: Tensor, r: int) -> Pairs:
    batch, side = partner.shape
    joining = partner.new_empty(batch, r)
    return partner.new_empty(batch, side - r), joining, torch.empty_like(joining)


@merge_groups.register_fake
def _(
    tokens: Tensor, size: Tensor | None, kept: Tensor, merged: Tensor, target: Tensor
) -> tuple[Tensor, Tensor]:
    batch, length, width = tokens.shape
    left = length - merged.shape[1]
    weight = tokens.new_empty(batch, left, dtype=torch.float32)
    return tokens.new_empty(batch, left, width), weight


@spread_gradient.register_fake
def _(grad: Tensor, size: Tensor | None, weight: Tensor, *pairs: Tensor) -> Tensor:
    batch, left, width = grad.shape
    return grad.new_empty(batch, left + pairs[1].shape[1], width)


def _remember(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    _, size, *pairs = inputs
    ctx.save_for_backward(size, output[1], *pairs)
    ctx.mark_non_differentiable(output[1])


def _backward(ctx: Any, grad: Tensor, _: Any) -> tuple[Tensor | None, ...]:
    return spread_gradient(grad, *ctx.saved_tensors), None, None, None, None


merge_groups.register_autograd(_backward, setup_context=_remember)
