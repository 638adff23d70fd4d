"""A backbone and an algorithm, without mmpretrain's training around them."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ..tier import needs_training
from .module import BaseDataPreprocessor, BaseModel, BaseModule


class BaseBackbone(BaseModule):
    """A network that makes features of images."""


class SelfSupDataPreprocessor(BaseDataPreprocessor):
    """Stands for mmpretrain's, which prepares the images of a loader.

    Args:
        **kwargs: Of mmpretrain's; inferencers prepare images themselves.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__()


class BaseSelfSupervisor(BaseModel):
    """An algorithm of ready parts.

    Args:
        backbone (nn.Module): Makes features.
        neck (nn.Module, optional): Works on them. Defaults to None.
        head (nn.Module, optional): Has the losses. Defaults to None.
        target_generator (nn.Module, optional): Makes targets. Defaults to None.
        data_preprocessor (dict | nn.Module, optional): Of mmpretrain's. Defaults to
            None.
        init_cfg (dict, optional): Initialization. Defaults to None.
    """

    def __init__(
        self,
        backbone: nn.Module,
        neck: nn.Module | None = None,
        head: nn.Module | None = None,
        target_generator: nn.Module | None = None,
        data_preprocessor: dict | nn.Module | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        if not isinstance(data_preprocessor, nn.Module):
            data_preprocessor = SelfSupDataPreprocessor(**(data_preprocessor or {}))
        super().__init__(data_preprocessor, init_cfg)
        self.backbone = backbone
        self.neck = neck
        self.head = head
        self.target_generator = target_generator

    def forward(
        self,
        inputs: Tensor | list[Tensor],
        data_samples: list | None = None,
        mode: str = 'tensor',
    ) -> Any:
        """Features ('tensor'); losses ('loss') are for training.

        Raises:
            MissingExtra: For another mode than 'tensor'.
        """
        if mode != 'tensor':
            raise needs_training(f'mode={mode!r} of {type(self).__name__}')
        return self.backbone(inputs)
