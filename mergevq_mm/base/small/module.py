"""Modules that are built and filled with weights, and not trained."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

from ..tier import needs_training


class BaseModule(nn.Module):
    """A module that knows how it is initialised.

    Args:
        init_cfg (dict | list[dict], optional): Initialization. Defaults to None.
    """

    def __init__(self, init_cfg: dict | list[dict] | None = None) -> None:
        super().__init__()
        self.is_init = False
        self.init_cfg = copy.deepcopy(init_cfg)

    def init_weights(self) -> None:
        """Let the parts draw or load their weights.

        Raises:
            MissingExtra: If ``init_cfg`` names one of mmengine's initializers.
        """
        if self.is_init:
            return
        if self.init_cfg:
            raise needs_training(f'init_cfg={self.init_cfg} of {type(self).__name__}')
        for part in self.children():
            if hasattr(part, 'init_weights') and not getattr(part, 'is_init', False):
                part.init_weights()
        self.is_init = True


class BaseDataPreprocessor(nn.Module):
    """Knows the device that a model is on.

    Args:
        non_blocking (bool): Of mmengine's. Defaults to False.
    """

    def __init__(self, non_blocking: bool = False) -> None:
        super().__init__()
        # Whatever moves the model moves it along.
        self.register_buffer('_place', torch.empty(0), persistent=False)

    @property
    def device(self) -> torch.device:
        """torch.device: Where the model is."""
        return self._place.device

    def forward(self, data: Any, training: bool = False) -> Any:
        """Refuse the batch of a loader.

        Raises:
            MissingExtra: Always.
        """
        raise needs_training('The batch of a data loader')

    def cast_data(self, data: Any) -> Any:
        """Refuse the batch of a loader, see :meth:`forward`."""
        return self.forward(data)


class BaseModel(BaseModule):
    """A whole model.

    Args:
        data_preprocessor (nn.Module, optional): Defaults to None, one that knows the
            device.
        init_cfg (dict, optional): Initialization. Defaults to None.
    """

    def __init__(
        self, data_preprocessor: nn.Module | None = None, init_cfg: dict | None = None
    ) -> None:
        super().__init__(init_cfg)
        self.data_preprocessor = data_preprocessor or BaseDataPreprocessor()

    def train_step(self, data: Any, optim_wrapper: Any) -> Any:
        """Refuse to train.

        Raises:
            MissingExtra: Always.
        """
        raise needs_training('A training step')

    def val_step(self, data: Any) -> Any:
        """Refuse the batch of a loader, see :meth:`train_step`."""
        raise needs_training('A validation step')

    test_step = val_step

    def parse_losses(self, losses: Any) -> tuple[Tensor, dict[str, Tensor]]:
        """Refuse losses, see :meth:`train_step`."""
        raise needs_training('A loss')

    def _run_forward(self, data: Any, mode: str) -> Any:
        raise needs_training('The batch of a data loader')


def is_model_wrapper(module: nn.Module) -> bool:
    """Whether a module wraps another one for distributed work."""
    return isinstance(module, (DataParallel, DistributedDataParallel))


class MMDistributedDataParallel(nn.Module):
    """Stands for mmengine's wrapper, which the small tier does not have."""

    module: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        raise needs_training(f'{type(self).__name__}')

    def _run_forward(self, data: Any, mode: str) -> Any:
        raise needs_training('The batch of a data loader')


class ExponentialMovingAverage(MMDistributedDataParallel):
    """Stands for mmengine's average, which the small tier does not have."""


class BaseTTAModel(MMDistributedDataParallel):
    """Stands for mmengine's augmented tests, which the small tier does not have."""
