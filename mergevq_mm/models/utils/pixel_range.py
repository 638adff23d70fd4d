"""From the range of the networks, [-1, 1], to those of pictures."""

from __future__ import annotations

from torch import Tensor


def to_unit_range(image: Tensor) -> Tensor:
    """[-1, 1] to [0, 1], clipped, float32."""
    return (image.float() * 0.5 + 0.5).clamp(0, 1)


def to_grey_values(image: Tensor) -> Tensor:
    """[-1, 1] to whole numbers from 0 to 255, as a file holds them, float32."""
    return (to_unit_range(image) * 255).round()
