"""Class labels of a batch of samples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def class_labels(
    data_samples: Sequence[Any] | None, reader: str, device: torch.device
) -> Tensor:
    """Labels of the samples, for a part that cannot do without.

    Args:
        data_samples (Sequence[DataSample], optional): Of the batch.
        reader (str): What reads them, for the message.
        device (torch.device): Where they are wanted.

    Returns:
        Tensor: B int64.

    Raises:
        ValueError: If a sample has none.
    """
    if not data_samples or any('gt_label' not in s for s in data_samples):
        raise ValueError(
            f'data_samples have no gt_label, which {reader} reads; read a data set '
            'with classes, or leave that out.'
        )
    return torch.cat([sample.gt_label for sample in data_samples]).to(device)
