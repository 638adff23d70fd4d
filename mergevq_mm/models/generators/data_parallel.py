"""Training steps of one loss: what is not finite leaves the weights alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mergevq_mm.base.module import BaseModel, MMDistributedDataParallel
from mergevq_mm.registry import MODEL_WRAPPERS

from ..utils.finite import all_finite, guarded_update

if TYPE_CHECKING:
    from mmengine.optim import OptimWrapper


def guarded_train_step(
    called: BaseModel | MMDistributedDataParallel,
    model: BaseModel,
    data: dict[str, Any],
    optim_wrapper: OptimWrapper,
) -> dict[str, Tensor]:
    """Update the weights, unless loss or gradients are not finite on some rank.

    Args:
        called (BaseModel): What the forward pass goes through, the model or its
            distributed wrapper.
        model (BaseModel): The model itself.
        data (dict): A batch.
        optim_wrapper (OptimWrapper): The optimizer.

    Returns:
        dict[str, Tensor]: What to log, with ``nonfinite`` for ``NaNGuardHook``.
    """
    with optim_wrapper.optim_context(called):
        data = model.data_preprocessor(data, training=True)
        losses = called._run_forward(data, mode='loss')
    total, log = model.parse_losses(losses)
    if not all_finite(losses):
        return {**log, 'nonfinite': torch.ones(())}
    return {**log, **guarded_update(optim_wrapper, total).flags()}


@MODEL_WRAPPERS.register_module()
class GuardedDistributedDataParallel(MMDistributedDataParallel):
    """mmengine's wrapper, which also skips steps whose loss is not finite.

    mmengine's wrapper does the training step itself instead of asking the model.
    """

    def train_step(
        self, data: dict[str, Any], optim_wrapper: OptimWrapper
    ) -> dict[str, Tensor]:
        """See :func:`guarded_train_step`."""
        return guarded_train_step(self, self.module, data, optim_wrapper)
