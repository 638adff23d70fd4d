"""What tells how many tokens an image needs, and the encoding that follows from it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Integral

import numpy as np
import torch
from torch import Tensor

from mergevq_mm.utils.distributed import unwrap

from .budget import Budget, plain_numbers
from .group_map import recover_tokens
from .merge_schedule import least_keep, resolve_keep
from .parts import Encoder, Parts
from .pixel_range import to_grey_values
from .ragged import Ragged, rows_by_keep, take_rows_of
from .structures import EmbeddedImage, MergedTokens
from .token_merging import Matching

MAX_PSNR = 100.0  # dB, of equal images


def encode_ragged(
    parts: Parts,
    images: Tensor,
    keep: int | Budget | Sequence[int],
    embedded: EmbeddedImage | None = None,
    views: int = 1,
) -> Ragged:
    """Encode images into a number of tokens of their own each.

    The convolutions run once. The blocks run once for each K that occurs, on the images
    that have it, and before that as often as the budget's signal needs.

    Args:
        parts (Parts): With ``backbone``, and for a PSNR ``quantizer`` and
            ``decoder``.
        images (Tensor): B×3×H×W in [-1, 1].
        keep (int | Budget | Sequence[int]): K, or what to spend, or K of each image.
            Views of one image have the same; a budget looks at the first.
        embedded (EmbeddedImage, optional): The same after the convolutions, where that
            is there. Defaults to None.
        views (int): Of each image: ``images`` are the first views of all, then the
            second ones, and so on. Defaults to 1.

    Returns:
        Ragged: Of ``MergedTokens``.

    Raises:
        ValueError: If a K cannot be reached, numbers are missing, there is no decoder
            where one is needed, or the images are not so many views.
    """
    if not isinstance(views, Integral) or views < 1 or len(images) % views:
        raise ValueError(
            f'views={views} of {len(images)} images in all; give a whole number that '
            'divides them.'
        )
    backbone = unwrap(parts.backbone)
    embedded = backbone.embed(images) if embedded is None else embedded
    length = math.prod(embedded.grid)
    if not len(images) and not isinstance(keep, Integral):  # a part, of no images
        keep = length if isinstance(keep, Budget) or not len(keep) else keep
    if isinstance(keep, (int, Integral)):  # numpy's whole numbers, too
        merged = backbone.encode_embedded(embedded, int(keep))
        return Ragged({int(keep): (range(len(images)), merged)})
    if isinstance(keep, Budget):
        first = slice(len(images) // views)
        seen = embedded._replace(tokens=embedded.tokens[first])
        keeps = choose_keeps(parts, images[first], seen, keep)
    else:
        keeps = [resolve_keep(plain_numbers(one), length) for one in keep]
    if len(keeps) * views != len(images):
        raise ValueError(
            f'keep has {len(keeps)} numbers for {len(images) / views:g} images; give '
            'one for each, or one for all.'
        )
    # Not as CUDA graphs: how many images have a K is another number each time.
    backbone = getattr(backbone, '_orig_mod', backbone)  # of torch.compile
    encode = type(backbone).encode_embedded
    return Ragged(
        {
            k: (rows, encode(backbone, take_rows_of(embedded, rows), k))
            for k, rows in rows_by_keep(keeps * views).items()
        }
    )


@torch.no_grad()
def choose_keeps(
    parts: Parts, images: Tensor, embedded: EmbeddedImage, budget: Budget
) -> list[int]:
    """K of each image of a batch.

    Args:
        parts (Parts): See :func:`encode_ragged`.
        images (Tensor): B×3×H×W in [-1, 1].
        embedded (EmbeddedImage): The same after the convolutions.
        budget (Budget): What to spend.

    Returns:
        list[int]: B numbers.

    Raises:
        ValueError: If a K cannot be reached, or there is no decoder where one is
            needed.
    """
    backbone = unwrap(parts.backbone)
    length = math.prod(embedded.grid)
    keeps = budget.candidates(length, least_keep(length, backbone.num_layers))
    if budget.by_similarity:
        table = similarity_table(parts, embedded, keeps)
    else:
        table = psnr_table(parts, images, embedded, keeps)
    return budget.choose(table, keeps, length)


def similarity_table(
    parts: Parts, embedded: EmbeddedImage, keeps: Sequence[int]
) -> np.ndarray:
    """How similar positions are to the tokens that stand for them, at each K.

    One run at the fewest tokens merges L - K₀ pairs, each with its cosine (of the keys,
    by which pairs are found). To keep K tokens is to do without the least similar of
    these: the quality at K is the mean over L of the L - K highest cosines and K ones.

    Args:
        parts (Parts): With ``backbone``.
        embedded (EmbeddedImage): B images.
        keeps (Sequence[int]): C numbers of tokens, ascending.

    Returns:
        np.ndarray: B×C float64, rising along each row.
    """
    pairs = merge_similarities(unwrap(parts.backbone), embedded, keeps[0])
    length = math.prod(embedded.grid)
    return similarity_quality(pairs.double().cpu().numpy(), keeps, length)


def merge_similarities(backbone: Encoder, embedded: EmbeddedImage, keep: int) -> Tensor:
    """Cosines of all pairs that merge on the way to K tokens.

    Args:
        backbone (MergeVQEncoder): The encoder.
        embedded (EmbeddedImage): B images after its convolutions.
        keep (int): K.

    Returns:
        Tensor: B×(L-K) float32, layer after layer.
    """
    x, size = embedded.tokens, None
    matches: tuple[Matching, ...] = ()
    for layer, r in zip(backbone.layers, backbone.plan(embedded.grid, keep)):
        x, size, matches = layer(x, size, matches, r)
    none = x.new_zeros(len(x), 0, dtype=torch.float32)
    return torch.cat([none, *(match.similarity for match in matches)], dim=1)


def similarity_quality(
    pairs: np.ndarray, keeps: Sequence[int], length: int
) -> np.ndarray:
    """Mean similarity at each K, from the cosines of all pairs that could merge.

    Args:
        pairs (np.ndarray): B×(L-K₀).
        keeps (Sequence[int]): C numbers of tokens from K₀ to L.
        length (int): L.

    Returns:
        np.ndarray: B×C.
    """
    falling = -np.sort(-pairs, axis=1)
    lost = np.cumsum(1 - falling, axis=1) / length
    lost = np.pad(lost, ((0, 0), (1, 0)))  # of no pair
    return 1 - lost[:, [length - keep for keep in keeps]]


def psnr_table(
    parts: Parts, images: Tensor, embedded: EmbeddedImage, keeps: Sequence[int]
) -> np.ndarray:
    """PSNR of the reconstruction at each K, of grey values as a file holds them.

    Args:
        parts (Parts): With ``backbone``, ``quantizer`` and ``decoder``.
        images (Tensor): B×3×H×W in [-1, 1].
        embedded (EmbeddedImage): The same after the convolutions.
        keeps (Sequence[int]): C numbers of tokens.

    Returns:
        np.ndarray: B×C float64, dB.

    Raises:
        ValueError: If there is no decoder.
    """
    if not hasattr(parts, 'decoder'):
        raise ValueError(
            'a budget by psnr needs a decoder, which features do without; give '
            "Budget(similarity=…), or Budget(mean=…, by='similarity')."
        )
    backbone, grey = unwrap(parts.backbone), to_grey_values(images)
    columns = []
    for keep in keeps:
        merged = backbone.encode_embedded(embedded, keep)
        error = to_grey_values(decode_merged(parts, merged)) - grey
        columns.append(error.square().flatten(1).mean(dim=1).double())
    errors = torch.stack(columns, dim=1).clamp(min=255**2 / 10 ** (MAX_PSNR / 10))
    return (10 * torch.log10(255**2 / errors)).cpu().numpy()


def decode_merged(parts: Parts, merged: MergedTokens) -> Tensor:
    """Images of merged tokens, by their codes and their true map.

    Args:
        parts (Parts): With ``quantizer`` and ``decoder``.
        merged (MergedTokens): Of one K.

    Returns:
        Tensor: B×3×H×W, about [-1, 1].
    """
    codes = unwrap(parts.quantizer)(merged.tokens, with_losses=False).codes
    codes = recover_tokens(codes, merged.group)
    return unwrap(parts.decoder)(codes, merged.grid)
