"""Images between two images: their tokens mixed, then quantised and decoded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mergevq_mm.utils.distributed import unwrap

from ..quantizers.lfq_functional import quantize
from ..utils.structures import MergedTokens
from .mergevq_checks import check_images

if TYPE_CHECKING:
    from .mergevq import MergeVQ


@torch.no_grad()
def interpolate(
    model: MergeVQ, first: Tensor, second: Tensor, shares: Sequence[float]
) -> Tensor:
    """Go from images to others through codes; nothing is merged.

    At each position the two projected tokens are mixed, and the mixture is quantised: a
    bit in which the two codes agree stays, another turns where the sum changes sign.
    Not in the paper.

    Args:
        model (MergeVQ): The tokenizer.
        first (Tensor): Images at share 0, B×3×H×W in [-1, 1].
        second (Tensor): Images at share 1, B×3×H×W in [-1, 1].
        shares (Sequence[float]): Of the second, T numbers in [0, 1].

    Returns:
        Tensor: T×B×3×H×W in about [-1, 1]. At 0 and 1 what
        :meth:`MergeVQ.reconstruct` makes with all tokens.

    Raises:
        ValueError: If the images differ in shape, or there is no share, or one outside
            [0, 1].
    """
    if first.shape != second.shape:
        raise ValueError(
            f'second of shape {tuple(second.shape)} does not go with first of shape '
            f'{tuple(first.shape)}; give as many images of the same size.'
        )
    if not len(shares) or not all(0 <= share <= 1 for share in shares):
        raise ValueError(
            f'shares={list(shares)}; give one or more numbers in [0, 1], such as [0.5].'
        )
    start, end = (_tokens(model, images) for images in (first, second))
    project = unwrap(model.quantizer).projection
    here, there = (project(merged.tokens) for merged in (start, end))
    images = []
    for share in shares:
        codes = quantize(torch.lerp(here.float(), there.float(), share)).to(here.dtype)
        images.append(model.decode(codes, start.group, start.grid)[0])
    return torch.stack(images)


def _tokens(model: MergeVQ, images: Tensor) -> MergedTokens:
    """All tokens of images, none merged."""
    check_images(images)
    tokens: MergedTokens = unwrap(model.backbone).encode(images)
    return tokens
