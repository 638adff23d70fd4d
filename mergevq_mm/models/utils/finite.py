"""Keep a NaN or infinite loss away from the weights and the running averages.

The three functions are what a ``train_step`` needs to skip a bad batch::

    before = copy_buffers(self)
    losses = self.loss(...)
    if not all_finite(losses):
        restore_buffers(self, before)
        return {..., 'nonfinite': 1.0}      # counted by NaNGuardHook

Buffers matter: batch-norm statistics, LeCAM averages and teacher centres are
updated by the forward pass, before anybody knows that the loss is not finite.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from mmengine.dist import all_reduce
from torch import Tensor, nn


def all_finite(losses: Mapping[str, Tensor | Sequence[Tensor]]) -> Tensor:
    """Whether all loss terms are finite, on all ranks.

    As in ``BaseModel.parse_losses``, keys that contain ``loss`` count and
    diagnostics do not. Nothing is copied to the host: the caller's ``if`` is the one
    synchronisation.

    Args:
        losses (Mapping[str, Tensor | Sequence[Tensor]]): Loss terms of any shape.

    Returns:
        Tensor: A boolean scalar, the same on every rank.

    Raises:
        ValueError: If no key contains ``loss``.
    """
    terms: list[Tensor] = []
    for name, value in losses.items():
        if 'loss' in name:
            terms.extend([value] if isinstance(value, Tensor) else value)
    if not terms:
        raise ValueError(
            f'losses={list(losses)} has no key that contains "loss"; name the terms '
            'loss_*.'
        )
    device = terms[0].device
    flags = [torch.isfinite(term.detach()).all().to(device) for term in terms]
    finite = torch.stack(flags).all()
    # The minimum over ranks: one bad rank makes all of them skip. NCCL and gloo
    # reduce integers, not booleans.
    shared = finite.to(torch.int32)
    all_reduce(shared, op='min')
    return shared.bool()


@torch.no_grad()
def copy_buffers(module: nn.Module) -> dict[str, Tensor]:
    """Copy all buffers of a module.

    Args:
        module (nn.Module): The module.

    Returns:
        dict[str, Tensor]: Names and copies, for :func:`restore_buffers`.
    """
    return {name: buffer.clone() for name, buffer in module.named_buffers()}


@torch.no_grad()
def restore_buffers(module: nn.Module, copies: Mapping[str, Tensor]) -> None:
    """Write copied buffers back, in place.

    Args:
        module (nn.Module): The module that they were copied from.
        copies (Mapping[str, Tensor]): What :func:`copy_buffers` returned.
    """
    for name, buffer in module.named_buffers():
        if name in copies:
            buffer.copy_(copies[name])
