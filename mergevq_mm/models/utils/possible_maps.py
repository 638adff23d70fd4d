"""The best source map among those that can exist.

Groups are numbered by their first raster occurrence, and each of the K has one: a map
is possible if its first group begins at place 0, the others begin one after the other,
and every place belongs to a group that has begun. The likeliest group of each place by
itself seldom makes such a map.

Let ``s[l, k]`` be the score of group k at place l. If group m begins at ``b[m]``, the
place ``b[m]`` earns ``s[b[m], m]``, and a place between ``b[m]`` and ``b[m+1]`` the
most of the groups 0 to m, ``c[l, m]``: a running maximum over the groups. With P the
sum of c over the places up to l, the whole map earns ::

    P[L-1, K-1] + Σ_m ( s[b[m], m] - P[b[m], m] + P[b[m] - 1, m - 1] ),   m = 1 … K-1

so each beginning has a gain of its own, and the best ``0 = b[0] < b[1] < …`` are found
group by group by a running maximum over the places, in K steps. Group m begins at place
m at the earliest and at L - K + m at the latest: K·(L - K + 1) gains are looked at.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

FLOOR = -1e6  # below the best group of a place; less counts as impossible
STEP = 2.0**-24  # of the whole numbers that scores are summed as


def best_possible_map(scores: Tensor, first: Tensor | None = None) -> Tensor:
    """The possible map whose places have the highest sum of scores.

    Nothing here waits for the device. A score that is -inf or NaN is avoided as far as
    it can be; the map is a possible one whatever the scores are.

    Args:
        scores (Tensor): Score of each group for each raster place, B×L×K, K ≤ L.
        first (Tensor, optional): The place where each group begins, B×K int64, as
            :func:`check_first_places` wants it. Defaults to None, where the sum is
            highest.

    Returns:
        Tensor: Group of each raster place, B×L int64.

    Raises:
        ValueError: If there are more groups than places, or as many first places as
            there are not groups.
    """
    batch, length, keep = scores.shape
    if keep > length:
        raise ValueError(
            f'scores of shape {tuple(scores.shape)} have {keep} groups for {length} '
            'places, and each group has at least one; give scores BxLxK with K <= L.'
        )
    if first is not None and first.shape != (batch, keep):
        raise ValueError(
            f'first of shape {tuple(first.shape)} does not go with scores of shape '
            f'{tuple(scores.shape)}; give the first place of each group, BxK.'
        )
    scores = _whole_numbers(scores)
    most, best = scores.cummax(dim=2)  # of the groups 0 to k, B×L×K
    if first is None:
        first = _best_beginnings(scores, most)
    begins = torch.zeros(batch, length, dtype=torch.int64, device=scores.device)
    begins.scatter_(1, first, 1)
    newest = begins.cumsum(dim=1) - 1  # of the groups that have begun, B×L
    likeliest = best.gather(2, newest.unsqueeze(2)).squeeze(2)
    return torch.where(begins.bool(), newest, likeliest)


def _whole_numbers(scores: Tensor) -> Tensor:
    """Scores below the best of their place, int64.

    Sums of these are exact: the same on any device, in whatever order it adds. (In
    float32 those of many places are rounded; CUDA sums them in no fixed order.)
    """
    scores = scores.detach().float().nan_to_num(FLOOR, posinf=-FLOOR, neginf=2 * FLOOR)
    scores = (scores - scores.amax(dim=2, keepdim=True)).clamp(min=FLOOR)
    return (scores / STEP).round().long()


def _best_beginnings(scores: Tensor, most: Tensor) -> Tensor:
    """First places b of the groups in the best map, B×K int64."""
    batch, length, keep = scores.shape
    late = length - keep  # group m begins at m + w, 0 ≤ w ≤ late
    total = most.cumsum(dim=1)
    group = torch.arange(1, keep, device=scores.device).unsqueeze(1)  # (K-1)×1
    place = group + torch.arange(late + 1, device=scores.device)  # (K-1)×(late+1)
    gain = (scores - total)[:, place, group] + total[:, place - 1, group - 1]
    reached = gain.new_zeros(batch, late + 1)
    before = []  # for group m at w, the best w of group m-1, B×(late+1)
    for m in range(keep - 1):
        reached, origin = (gain[:, m] + reached).cummax(dim=1)
        before.append(origin)
    at = torch.full((batch, 1), late, dtype=torch.int64, device=scores.device)
    late_by = []
    for origin in reversed(before):
        at = origin.gather(1, at)
        late_by.append(at)
    late_by.append(torch.zeros_like(at))
    return torch.cat(late_by[::-1], dim=1) + torch.arange(keep, device=scores.device)


def check_first_places(first: Tensor, shape: Sequence[int], length: int) -> None:
    """Refuse first places that no map has.

    It waits for the device: for the entry, not for a loop.

    Args:
        first (Tensor): First raster place of each group, B×K int64.
        shape (Sequence[int]): Images and groups that it should be of, B and K.
        length (int): Number of places, L.

    Raises:
        ValueError: If it has another shape or type, the first group does not begin at
            place 0, a group not after the one before it, or one beyond the last place.
    """
    if tuple(first.shape) != tuple(shape) or first.dtype != torch.int64:
        raise ValueError(
            f'first of shape {tuple(first.shape)} and {first.dtype} does not go with '
            f'{shape[1]} codes of {shape[0]} images; give the first place of each '
            'group, BxK int64.'
        )
    if torch.compiler.is_compiling() or first.is_meta:
        return
    rises = (first[:, 1:] > first[:, :-1]).all(dim=1)
    possible = rises & (first[:, 0] == 0) & (first[:, -1] < length)
    if not possible.all():
        wrong = int((~possible).nonzero()[0, 0])
        raise ValueError(
            f'first={first[wrong].tolist()} of image {wrong} are not the first places '
            f'of groups in a raster of {length}; give 0 for the first group, and for '
            f'each other one a later place than for the one before, up to {length - 1}.'
        )
