"""A head without a class: it hands the features to a metric."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from mergevq_mm.base.module import BaseModule
from mergevq_mm.registry import MODELS

if TYPE_CHECKING:
    from mmpretrain.structures import DataSample


@MODELS.register_module()
class FeatureHead(BaseModule):
    """Head of an mmpretrain classifier that predicts nothing but the features.

    For metrics of features, such as :class:`mergevq_mm.KNNAccuracy`; there is nothing
    to train.
    """

    def forward(self, feats: Sequence[Tensor]) -> Tensor:
        """Features of the last stage, B×D."""
        return feats[-1]

    def loss(
        self, feats: Sequence[Tensor], data_samples: list[DataSample]
    ) -> dict[str, Any]:
        """Refuse to train.

        Raises:
            ValueError: Always.
        """
        raise ValueError(
            'FeatureHead has no loss: run tools/test.py, or take a head such as '
            'mmpretrain.LinearClsHead to train.'
        )

    def predict(
        self,
        feats: Sequence[Tensor],
        data_samples: list[DataSample | None] | None = None,
    ) -> list[DataSample]:
        """Samples with the field ``feature``.

        Args:
            feats (Sequence[Tensor]): Of the backbone or the neck.
            data_samples (list[DataSample], optional): To fill. Defaults to None, new.

        Returns:
            list[DataSample]: ``feature`` is D.
        """
        from mmpretrain.structures import DataSample

        feature = self(feats)
        samples = data_samples or [None] * len(feature)
        found = []
        for row, sample in zip(feature, samples, strict=True):
            sample = DataSample() if sample is None else sample
            sample.set_field(row, 'feature', dtype=Tensor)
            found.append(sample)
        return found
