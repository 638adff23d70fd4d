"""Predictions as MergeVQ.predict returns them, made by hand."""

from __future__ import annotations

import torch
from mmpretrain.structures import DataSample
from torch import Tensor


def ordered_groups(length: int, keep: int) -> Tensor:
    """A random group map of L positions, groups numbered by first occurrence."""
    drawn = torch.cat([torch.arange(keep), torch.randint(keep, (length - keep,))])
    drawn = drawn[torch.randperm(length)]
    numbers: dict[int, int] = {}
    return torch.tensor([numbers.setdefault(int(g), len(numbers)) for g in drawn])


def make_prediction(
    keeps: tuple[int, ...] = (4, 16),
    size: int = 32,
    noise: float = 0.1,
    bits: int = 6,
    learned: bool = False,
) -> DataSample:
    """One prediction on a 4×4 grid whose images are noisy copies of the original."""
    original = torch.rand(3, size, size)
    reconstructions = {}
    for keep in keeps:
        image = (original + noise * torch.randn_like(original)).clamp(0, 1)
        group = ordered_groups(16, keep)
        result = dict(image=image, index=torch.randint(2**bits, (keep,)), group=group)
        if learned:
            predicted = torch.where(torch.rand(16) < 0.5, group, group.flip(0))
            result['predicted_group'] = predicted
            result['predicted_image'] = image.flip(0)
        reconstructions[keep] = result
    sample = DataSample()
    sample.set_field(original, 'original')
    sample.set_field((4, 4), 'grid')
    sample.set_field(reconstructions, 'reconstructions')
    return sample
