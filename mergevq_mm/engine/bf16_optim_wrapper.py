"""Training in bfloat16 on any device, CPUs included."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from mmengine.optim import OptimWrapper
from torch import nn

from mergevq_mm.registry import OPTIM_WRAPPERS


@OPTIM_WRAPPERS.register_module()
class Bf16OptimWrapper(OptimWrapper):
    """An optimizer whose forward passes run under bfloat16 autocast.

    bfloat16 has the range of float32, so that no loss scale is needed; weights,
    gradients and optimizer states stay in float32. mmengine's ``AmpOptimWrapper`` does
    the same on a GPU and refuses CPUs. What must not lose precision (matching, entropy,
    log-softmax) leaves autocast on its own.

    Args:
        **kwargs: Of mmengine's ``OptimWrapper``.
    """

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Autocast on the device of a model, and what the base class does.

        Args:
            model (nn.Module): The model, or a part of it.
        """
        first = next(model.parameters(), None)
        kind = 'cpu' if first is None else first.device.type
        with super().optim_context(model), torch.autocast(kind, torch.bfloat16):
            yield
