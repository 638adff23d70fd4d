"""Keep NaN and infinity away from the weights and the running averages.

The functions are what a ``train_step`` needs to skip a bad batch::

    before = copy_buffers(self)
    losses = self.loss(...)
    if not all_finite(losses):
        restore_buffers(self, before)
        return {..., 'nonfinite': 1.0}      # counted by NaNGuardHook
    update = guarded_update(optim_wrapper, sum(losses.values()))
    return {..., **update.flags()}

A finite loss may still have an infinite gradient, which clipping would turn into NaN.

Buffers matter: batch-norm statistics, LeCAM averages and teacher centres are
updated by the forward pass, before anybody knows that the loss is not finite.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from mergevq_mm.base.process import all_reduce

if TYPE_CHECKING:
    from mmengine.optim import OptimWrapper


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
    return _on_all_ranks(torch.stack(flags).all())


def is_finite(value: Tensor | float) -> bool:
    """Whether a value that is logged, a tensor or a number, is finite.

    Args:
        value (Tensor | float): Of any shape.

    Returns:
        bool: False if any of it is NaN or infinite.
    """
    if isinstance(value, Tensor):
        return bool(torch.isfinite(value).all())
    return math.isfinite(value)


def _on_all_ranks(flag: Tensor) -> Tensor:
    """Whether a boolean scalar holds on all ranks: one bad rank makes all skip."""
    shared = flag.to(torch.int32)  # NCCL and gloo reduce integers, not booleans
    all_reduce(shared, op='min')
    return shared.bool()


class Update(NamedTuple):
    """What :func:`guarded_update` did.

    Attributes:
        finite (bool): False if the gradients were not finite and have been dropped.
        stepped (bool): Whether the optimizer has moved the weights. False while
            gradients accumulate.
        scaled (bool): Whether a loss scaler (fp16) looks for infinity.
    """

    finite: bool
    stepped: bool
    scaled: bool = False

    def flags(self) -> dict[str, Tensor]:
        """What ``NaNGuardHook`` wants to know, as log variables.

        Returns:
            dict[str, Tensor]: ``nonfinite``, and with a loss scaler ``dropped``: it
            drops steps as part of its work, until its scale is low enough.
        """
        bad = torch.tensor(float(not self.finite))
        if self.scaled:
            return {'nonfinite': torch.zeros(()), 'dropped': bad}
        return {'nonfinite': bad}


def guarded_update(optim_wrapper: OptimWrapper, loss: Tensor) -> Update:
    """``optim_wrapper.update_params(loss)`` that drops gradients with NaN or infinity.

    The gradients are looked at where the optimizer would step, not while they
    accumulate: their norm is computed once and agreed on by all ranks. A norm beyond
    the range of float32 counts as infinite. Wrappers with a loss scaler (fp16) make the
    step themselves, which drops it and lowers the scale.

    Args:
        optim_wrapper (OptimWrapper): The optimizer.
        loss (Tensor): A scalar.

    Returns:
        Update: Whether the gradients were finite, and whether the optimizer stepped.
    """
    from mmengine.optim import ApexOptimWrapper

    scaled = hasattr(optim_wrapper, 'loss_scaler') or isinstance(
        optim_wrapper, ApexOptimWrapper
    )
    # What update_params does, with a look before the step.
    optim_wrapper.backward(optim_wrapper.scale_loss(loss))
    if not optim_wrapper.should_update():
        return Update(True, False, scaled)
    finite = bool(_on_all_ranks(_gradients_finite(optim_wrapper, loss)))
    if finite or scaled:
        optim_wrapper.step()
    optim_wrapper.zero_grad()
    return Update(finite, finite, scaled)


def _gradients_finite(optim_wrapper: OptimWrapper, loss: Tensor) -> Tensor:
    """Whether the norm of all gradients of an optimizer is finite, a boolean scalar."""
    parameters = [
        p
        for group in optim_wrapper.param_groups
        for p in group['params']
        if p.grad is not None
    ]
    if hasattr(nn.utils, 'get_total_norm'):
        norm = nn.utils.get_total_norm([p.grad for p in parameters])
    else:  # torch before 2.6: clipping at infinity changes nothing
        norm = nn.utils.clip_grad_norm_(parameters, float('inf'))
    return torch.isfinite(norm.to(loss.device))


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
