"""Moving averages of weights that cost few kernels and wait for no device."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from mergevq_mm.base.module import ExponentialMovingAverage
from mergevq_mm.registry import MODELS


@MODELS.register_module()
class MovingAverage(ExponentialMovingAverage):
    """mmengine's moving average, all weights moved in one go.

    The numbers are the same. mmengine starts an operator for each weight, and asks the
    device twice an update how many there have been so far; here the host counts along.

    Args:
        model (nn.Module): To average.
        momentum (float): Share of the model in each update, in (0, 1).
        **kwargs: Of mmengine's ``ExponentialMovingAverage``.
    """

    # mmengine's.
    avg_parameters: dict[str, torch.Tensor]
    interval: int
    module: nn.Module
    momentum: float
    steps: torch.Tensor
    update_buffers: bool

    def __init__(self, model: nn.Module, momentum: float, **kwargs: Any) -> None:
        super().__init__(model, momentum, **kwargs)
        self._updates: int | None = 0  # what `steps` says, None while not known

    def share(self) -> float:
        """Share of the model in the next update."""
        return self.momentum

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """Move the average towards the model; the first time, copy it.

        Args:
            model (nn.Module): Of the same names as the averaged one.
        """
        if self._updates is None:
            self._updates = int(self.steps)
        named = model.state_dict() if self.update_buffers else model.named_parameters()
        new: dict[str, torch.Tensor] = dict(named)
        pairs = [(old, new[name]) for name, old in self.avg_parameters.items()]
        if self._updates == 0:
            _copy(pairs)
        elif self._updates % self.interval == 0:
            pairs = [(old, value) for old, value in pairs if old.is_floating_point()]
            old = [old for old, _ in pairs]
            values = [value.to(old.device) for old, value in pairs]
            torch._foreach_lerp_(old, values, self.share())
        if not self.update_buffers:
            _copy(list(zip(self.module.buffers(), model.buffers())))
        self.steps += 1
        self._updates += 1

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._updates = None


def _copy(pairs: list[tuple[torch.Tensor, torch.Tensor]]) -> None:
    """Set the first of each pair to the second."""
    if pairs:
        olds, news = (list(side) for side in zip(*pairs))
        torch._foreach_copy_(olds, news)
