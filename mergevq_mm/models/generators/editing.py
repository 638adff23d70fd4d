"""What an edit keeps of an image, and what it draws anew.

An image is tokenized at K, and a region of its L places is to be drawn anew. All places
outside keep their codes, to the bit. What can be drawn depends on K:

* K = L: each place has a code of its own, and those of the region are drawn.
* K < L: a group may reach beyond the region. Its code is kept then, as it is seen
  outside; the groups that lie wholly in the region are drawn, and the places of the
  region are shared out anew, among all groups, by the tokenizer's source recovery.

Neither the paper nor RandAR's authors edit images with merged tokens.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from ..utils.group_map import recover_tokens
from ..utils.possible_maps import best_possible_map
from .structures import SampledCodes

if TYPE_CHECKING:
    from .tokenizer import FrozenTokenizer


class KnownCodes(NamedTuple):
    """Tokenized images of which a part is to be drawn anew.

    Attributes:
        index (Tensor): Codes of the K groups, B×K int64.
        group (Tensor): Group of each raster position, B×L int64.
        free (Tensor): Whether a raster position is to be drawn anew, B×L bool.
    """

    index: Tensor  # type: ignore[assignment]  # no tuple.index is missed
    group: Tensor
    free: Tensor

    def raster(self) -> Tensor:
        """Code of each raster position, B×L int64."""
        return recover_tokens(self.index.unsqueeze(-1), self.group).squeeze(-1)

    def free_groups(self) -> Tensor:
        """Whether a group lies wholly in the region, B×K bool."""
        outside = torch.zeros_like(self.index).scatter_add_(
            1, self.group, (~self.free).long()
        )
        return outside == 0

    def checked_groups(self) -> Tensor:
        """:meth:`free_groups`, at least one in each image.

        Raises:
            ValueError: If an image has none.
        """
        free = self.free_groups()
        for number in _where(~free.any(dim=1)):
            raise ValueError(
                f'region of image {number} holds no token as a whole at '
                f'keep={free.shape[1]}: those that touch it reach beyond; paint more '
                'of the image, or take a larger keep.'
            )
        return free

    def rows(self, rows: Tensor) -> KnownCodes:
        """Those of some of the images."""
        return KnownCodes(*(value[rows] for value in self))


def read_region(
    region: Tensor, count: int, size: tuple[int, int], grid: tuple[int, int]
) -> Tensor:
    """Raster positions that a mask of pixels touches.

    Args:
        region (Tensor): H×W for all images, or B×H×W; bool, or numbers 0 and 1. True is
            what is to be drawn anew.
        count (int): Images, B.
        size (tuple[int, int]): Height and width of the images.
        grid (tuple[int, int]): Rows and columns of the raster.

    Returns:
        Tensor: B×L bool: a position is free if any of its pixels is.

    Raises:
        ValueError: If the mask has another size or other values, is empty, or leaves
            nothing of an image to keep.
    """
    region = torch.as_tensor(region)
    shape = tuple(region.shape)
    if shape[-2:] != tuple(size) or shape[:-2] not in ((), (1,), (count,)):
        raise ValueError(
            f'region of shape {shape} does not fit {count} images of '
            f'{size[0]}x{size[1]} pixels; give a mask of {size[0]}x{size[1]}, or one '
            'for each image.'
        )
    if not ((region == 0) | (region == 1)).all():
        raise ValueError(
            f'region holds values from {region.min().item():g} to '
            f'{region.max().item():g}; give True (or 1) where to draw anew, and False '
            '(or 0) elsewhere.'
        )
    rows, columns = (pixels // n for pixels, n in zip(size, grid, strict=True))
    # B×H×W -> B×h×(H/h)×w×(W/w)
    patches = region.bool().reshape(-1, grid[0], rows, grid[1], columns)
    free = patches.any(dim=4).any(dim=2).flatten(1).expand(count, -1)  # B×L
    for number in _where(~free.any(dim=1)):
        raise ValueError(
            f'region of image {number} is empty, so that nothing would be drawn; '
            'paint what is to be drawn anew.'
        )
    for number in _where(free.all(dim=1)):
        raise ValueError(
            f'region of image {number} covers all {free.shape[1]} tokens, so that '
            'nothing would be kept; generate without known and region instead.'
        )
    return free


def _where(bad: Tensor) -> list[int]:
    """Numbers of the images that are bad."""
    numbers: list[int] = bad.nonzero().flatten().tolist()
    return numbers


def tokenize_known(
    tokenizer: FrozenTokenizer,
    images: Tensor | None,
    region: Tensor | None,
    keep: int,
    count: int,
) -> KnownCodes | None:
    """Codes of images, and which of them a region frees.

    Args:
        tokenizer (FrozenTokenizer): Of the generator.
        images (Tensor, optional): B×3×H×W in [-1, 1], or one image for all.
        region (Tensor, optional): See :func:`read_region`.
        keep (int): K.
        count (int): Images to draw, B.

    Returns:
        KnownCodes, optional: Of B images; None where neither is given.

    Raises:
        ValueError: If the images are not B, not in [-1, 1] or do not fit, the region
            does not, or one of the two is missing.
    """
    if images is None and region is None:
        return None
    if images is None or region is None:
        lacks = 'known' if images is None else 'region'
        raise ValueError(
            f'{lacks}=None, but an edit needs an image (known) and what of it to draw '
            'anew (region); give both, or neither.'
        )
    if images.ndim != 4 or len(images) not in (1, count) or images.shape[1] != 3:
        raise ValueError(
            f'known of shape {tuple(images.shape)} is not {count} images; give '
            f'{count}x3xHxW, or 1x3xHxW, one for all.'
        )
    low, high = torch.stack(images.aminmax()).tolist()
    if not (images.is_floating_point() and -1 <= low and high <= 1):
        raise ValueError(
            f'known holds {images.dtype} in [{low:g}, {high:g}]; give floating point '
            'numbers in [-1, 1], black to white.'
        )
    index, group, _ = tokenizer.encode(images, keep)  # refuses another size
    size = (images.shape[2], images.shape[3])
    free = read_region(region, count, size, tokenizer.grid)
    index, group = (x.long().expand(count, -1) for x in (index, group))
    return KnownCodes(index, group, free.to(index.device))


def place_codes(
    tokenizer: FrozenTokenizer,
    drawn: SampledCodes,
    known: KnownCodes | None,
    labels: Tensor | None = None,
) -> SampledCodes:
    """Put the codes of an edit on the raster.

    Args:
        tokenizer (FrozenTokenizer): Of the generator.
        drawn (SampledCodes): Of K groups, or complete.
        known (KnownCodes, optional): What has been kept; None where it is no edit.
        labels (Tensor, optional): Classes, B int64, for a recovery that can be told.
            Defaults to None.

    Returns:
        SampledCodes: Complete, B×L: outside of the region the codes of ``known``;
        inside the source recovery shares the places out. The best possible map keeps
        what is outside, for one that does is possible: that of the image.
    """
    if known is None or drawn.complete:
        return drawn
    scores = tokenizer.source_scores(drawn.index, labels, drawn.first)
    group = best_possible_map(keep_outside(scores, known), drawn.first)
    raster = known._replace(index=drawn.index, group=group).raster()
    return drawn._replace(index=raster, complete=True)


def keep_outside(scores: Tensor, known: KnownCodes) -> Tensor:
    """Scores of groups by which each place outside a region stays in its own.

    Args:
        scores (Tensor): B×L×K.
        known (KnownCodes): What is to be kept.

    Returns:
        Tensor: B×L×K, -inf where a group is out of the question.
    """
    number = torch.arange(scores.shape[-1], device=scores.device)
    other = number != known.group.unsqueeze(-1)
    return scores.masked_fill(other & ~known.free.unsqueeze(-1), -torch.inf)


def put_together(parts: list[tuple[Tensor, SampledCodes]]) -> SampledCodes:
    """One batch of samples that were drawn in several.

    Args:
        parts (list[tuple[Tensor, SampledCodes]]): Rows of the batch and their codes.

    Returns:
        SampledCodes: In the order of the rows.
    """
    back = torch.cat([rows for rows, _ in parts]).argsort()
    drawn = [one for _, one in parts]
    index = torch.cat([one.index for one in drawn])[back]
    stats = {
        name: torch.cat([one.stats[name] for one in drawn])[back]
        for name in drawn[0].stats
    }
    firsts = [one.first for one in drawn if one.first is not None]  # all, or none
    first = torch.cat(firsts)[back] if firsts else None
    return drawn[0]._replace(index=index, stats=stats, first=first)
