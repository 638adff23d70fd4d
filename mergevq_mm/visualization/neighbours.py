"""Drawn images beside the training images that they are nearest to: are they copies?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from .grids import to_uint8
from .merge_map import enlarge
from .strips import strip


class Neighbours(NamedTuple):
    """The nearest of a gallery, the nearest first.

    Attributes:
        index (Tensor): N×n int64, places in the gallery.
        psnr (Tensor): N×n, how near they are in dB. A copy is beyond all bounds; what
            a good reconstruction has of its original is about 25 dB.
    """

    index: Tensor
    psnr: Tensor


def nearest_images(
    images: Tensor, gallery: Tensor, number: int = 3, mirrored: bool = True
) -> Neighbours:
    """The images of a gallery with the least squared error to each image.

    Args:
        images (Tensor): N×3×H×W in [0, 1].
        gallery (Tensor): M×3×H×W in [0, 1], such as the training images.
        number (int): How many, n; at most M. Defaults to 3.
        mirrored (bool): Whether to look at the mirror images of the gallery, too.
            Defaults to True.

    Returns:
        Neighbours: The nearest ones, each of the gallery once.

    Raises:
        ValueError: If shapes differ, or the gallery has fewer images.
    """
    if images.shape[1:] != gallery.shape[1:] or not 1 <= number <= len(gallery):
        raise ValueError(
            f'images of shape {tuple(images.shape)} have no {number} neighbours in a '
            f'gallery of shape {tuple(gallery.shape)}; give images of one size and at '
            'most as many neighbours as the gallery has images.'
        )
    error = _squared_error(images, gallery)
    if mirrored:
        error = torch.minimum(error, _squared_error(images, gallery.flip(-1)))
    least, index = error.topk(number, dim=1, largest=False)
    return Neighbours(index, -10 * least.clamp(min=1e-12).log10())


def _squared_error(images: Tensor, gallery: Tensor) -> Tensor:
    """Mean squared error of each image and each of the gallery, N×M."""
    a, b = images.flatten(1).float(), gallery.flatten(1).float()
    distance = torch.cdist(a, b, compute_mode='donot_use_mm_for_euclid_dist')
    return distance.square() / math.prod(images.shape[1:])


def neighbour_sheet(
    images: Tensor,
    gallery: Tensor,
    near: Neighbours,
    titles: Sequence[str] | None = None,
    pairs: int = 2,
    scale: int | None = None,
) -> np.ndarray:
    """Each image beside its neighbours, their nearness below.

    Args:
        images (Tensor): N×3×H×W in [0, 1].
        gallery (Tensor): M×3×H×W in [0, 1].
        near (Neighbours): What :func:`nearest_images` found.
        titles (Sequence[str], optional): Above each image. Defaults to None, 'drawn'.
        pairs (int): Images of a row, each with its neighbours. Defaults to 2.
        scale (int, optional): Whole factor of enlargement. Defaults to None, to about
            100 pixels.

    Returns:
        np.ndarray: H'×W'×3 uint8.

    Raises:
        ValueError: If there is no image, or titles are missing.
    """
    titles = ['drawn'] * len(images) if titles is None else titles
    if not len(images) or len(titles) != len(images):
        raise ValueError(
            f'titles has {len(titles)} entries for {len(images)} images; give an image '
            'at least, and a title for each.'
        )
    scale = scale or max(1, round(100 / min(images.shape[-2:])))
    cells, heads, notes = [], [], []
    for image, title, index, psnr in zip(images, titles, *near, strict=True):
        cells.append(enlarge(to_uint8(image), scale))
        heads.append(title)
        notes.append(['drawn'])
        for rank, (place, value) in enumerate(zip(index.tolist(), psnr.tolist()), 1):
            cells.append(enlarge(to_uint8(gallery[place]), scale))
            heads.append('nearest' if rank == 1 else f'no. {rank}')
            notes.append([f'{value:.1f} dB'])
    return strip(cells, heads, notes, columns=pairs * (1 + near.index.shape[1]))
