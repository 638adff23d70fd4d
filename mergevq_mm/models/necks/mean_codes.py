"""What a probe of the quantised codes sees."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mergevq_mm.base.module import BaseModule
from mergevq_mm.registry import MODELS
from mergevq_mm.utils.pretrained import init_pretrained


@MODELS.register_module()
class MeanCodes(BaseModule):
    """Mean over all positions of the quantised codes: d features an image.

    The quantizer is frozen. It follows a backbone of ``out_type='featmap'`` with
    merging off; with merging on, its norm would see a merged token once for each
    position that it stands for.

    Args:
        quantizer (dict): The trained tokenizer's, ``mergevq_mm.LFQ``, with its
            ``init_cfg`` to load the weights.
        norm (dict, optional): A neck that follows, such as mmpretrain's
            ``ClsBatchNormNeck``. Defaults to None.
        init_cfg (dict, optional): Initialization. Defaults to None.
    """

    def __init__(
        self,
        quantizer: dict[str, Any],
        norm: dict[str, Any] | None = None,
        init_cfg: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(init_cfg)
        self.quantizer = MODELS.build(quantizer)
        self.quantizer.requires_grad_(False)
        self.norm = None if norm is None else MODELS.build(norm)
        self.train()

    def init_weights(self) -> None:
        """Load the quantizer, refusing a checkpoint that does not hold it."""
        if not init_pretrained(self.quantizer):
            super().init_weights()

    def train(self, mode: bool = True) -> MeanCodes:
        """Set the training mode; the quantizer stays in evaluation mode."""
        super().train(mode)
        self.quantizer.eval()
        return self

    def forward(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Pool the codes of each map.

        Args:
            inputs (Sequence[Tensor]): Maps of the backbone, B×D×h×w each.

        Returns:
            tuple[Tensor]: B×d each.
        """
        with torch.no_grad():
            found = tuple(
                self.quantizer(x.flatten(2).transpose(1, 2)).codes.mean(dim=1)
                for x in inputs  # B×D×h×w -> B×L×D -> B×d
            )
        return found if self.norm is None else self.norm(found)
