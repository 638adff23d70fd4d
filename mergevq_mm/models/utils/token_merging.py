"""Token merging: bipartite soft matching, written from the published algorithm.

Bolya et al., "Token Merging: Your ViT But Faster" (ICLR 2023), as MergeVQ uses it
(paper section 3.2): behind the class token, which takes no part, the tokens of a layer
are dealt alternately to two sides B and A, each token of A looks for the most similar
one of B, and the r most similar pairs become one token each.

All shapes depend on Python integers alone, nothing is read back to the host and sums
have a fixed order on any device, so the functions compile, capture in a CUDA graph and
give the same numbers in each run. They are made of few operators, as starting a kernel
costs a GPU more than what most of them compute; see :mod:`.merging_operators`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from .merging_operators import (
    has_kernels,
    means_by_sums,
    merge_groups,
    pairs_by_sorting,
    split_pairs,
)
from .precision import no_autocast


class Matching(NamedTuple):
    """Which tokens of a layer merge: r of the a of side A into the b of side B.

    A layer of T tokens has b = T // 2, its tokens 1, 3, 5, …, and a = (T - 1) // 2, its
    tokens 2, 4, 6, ….

    Attributes:
        kept (Tensor): Positions in A of the tokens that stay, B×(a-r), ascending.
        merged (Tensor): Positions in A of the tokens that merge, B×r, the most similar
            pair first.
        target (Tensor): Position in B that each of the merged ones joins, B×r.
        best (Tensor, optional): Cosine of each token of A with the most similar one of
            B, B×a float32. Defaults to None, not known.
    """

    kept: Tensor
    merged: Tensor
    target: Tensor
    best: Tensor | None = None

    @property
    def similarity(self) -> Tensor:
        """Tensor: Cosine of each merged pair, B×r float32, falling."""
        assert self.best is not None  # only a matching of our own is asked
        return self.best.gather(1, self.merged)


@torch.no_grad()
def bipartite_matching(metric: Tensor, r: int) -> Matching:
    """Find the r most similar pairs between alternating tokens.

    Args:
        metric (Tensor): What similarity is measured on, B×T×C, the class token first;
            MergeVQ takes the attention keys, averaged over the heads.
        r (int): Number of pairs, at most half of the T - 1 other tokens.

    Returns:
        Matching: Computed in float32 whatever the precision around it, no gradient.

    Raises:
        ValueError: If ``r`` is negative or more than half of the tokens.
    """
    most = (metric.shape[1] - 1) // 2
    if not 0 <= r <= most:
        raise ValueError(
            f'r={r} lies outside [0, {most}]: a layer merges at most half of its '
            f'{metric.shape[1] - 1} tokens; lower r or merge in more layers.'
        )
    with no_autocast(metric):
        unit = F.normalize(metric.float(), dim=-1)
        similarity = torch.bmm(unit[:, 2::2], unit[:, 1::2].transpose(1, 2))  # B×a×b
        best, partner = similarity.max(dim=-1)  # B×a
    take = split_pairs if has_kernels(best) else pairs_by_sorting
    kept, merged, target = take(best, partner, r)
    return Matching(kept, merged, target, best)


def merge_tokens(
    tokens: Tensor, size: Tensor | None, match: Matching
) -> tuple[Tensor, Tensor]:
    """Replace each group by the mean of its members, weighted by their sizes.

    The order of the result is the class token, A's remaining tokens, then all of B.

    Args:
        tokens (Tensor): B×T×D.
        size (Tensor, optional): Positions that each token stands for, B×T; None while
            all are 1.
        match (Matching): From :func:`bipartite_matching`, r pairs.

    Returns:
        tuple[Tensor, Tensor]: Tokens B×(T-r)×D, differentiable in ``tokens``, and their
        sizes B×(T-r).
    """
    merge = merge_groups if has_kernels(tokens) else means_by_sums
    return merge(tokens, size, match.kept, match.merged, match.target)


def follow_merges(x: Tensor, matches: Sequence[Matching], length: int) -> Tensor:
    """Follow the raster positions through all merges, at the end of them.

    Each token goes by the name of one of its positions, its leader. A token that joins
    another one names the other's leader as its own; following these names from a
    position to the last of them leads to the token that stands for it.

    Args:
        x (Tensor): What is left of the tokens, B×(1+K)×D, for its batch and device.
        matches (Sequence[Matching]): One for each layer that merged, in their order.
        length (int): Raster positions, L.

    Returns:
        Tensor: Token of each raster position, the class token counted at 0, B×L int64.
    """
    batch, left, _ = x.shape
    names = torch.arange(1 + length, device=x.device).expand(batch, -1)
    if not matches:
        return names[:, 1:]
    leader, joining, joined = names, [], []
    for kept, merged, target, _ in matches:
        a, b = leader[:, 2::2], leader[:, 1::2]
        joining.append(a.gather(1, merged))
        joined.append(b.gather(1, target))
        leader = torch.cat([leader[:, :1], a.gather(1, kept), b], dim=1)
    last = names.scatter(1, torch.cat(joining, dim=1), torch.cat(joined, dim=1))
    for _ in range((len(matches) - 1).bit_length()):
        last = last.gather(1, last)  # twice as many steps as before
    number = torch.arange(left, device=x.device).expand(batch, -1)
    return names.scatter(1, leader, number).gather(1, last[:, 1:])
