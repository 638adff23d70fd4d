"""Token merging: bipartite soft matching, written from the published algorithm.

Bolya et al., "Token Merging: Your ViT But Faster" (ICLR 2023), as MergeVQ uses it
(paper section 3.2): the tokens of a layer are dealt alternately to two sides A and B,
each token of A looks for the most similar one of B, and the r most similar pairs become
one token each. The class token, at position 0, takes no part.

All shapes depend on Python integers alone, nothing is read back to the host and no
floating-point atomics are used, so the functions compile, capture in a CUDA graph and
give the same numbers in each run.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from .precision import no_autocast


class Matching(NamedTuple):
    """Which tokens of a layer merge, for T = 1 + t tokens of which r go.

    Attributes:
        kept (Tensor): Positions in A of the tokens that stay, B×(|A| - r), ascending.
        merged (Tensor): Positions in A of the tokens that merge, B×r.
        target (Tensor): Position in B that each of the merged ones joins, B×r.
    """

    kept: Tensor
    merged: Tensor
    target: Tensor


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
        similarity = unit[:, 0::2] @ unit[:, 1::2].transpose(1, 2)  # B×|A|×|B|
        best, partner = similarity.max(dim=-1)  # B×|A|
    best[:, 0] = -torch.inf  # the class token stands at A's position 0
    ranked = best.argsort(dim=-1, descending=True, stable=True)
    merged = ranked[:, :r]
    kept = ranked[:, r:].sort(dim=-1).values
    return Matching(kept, merged, partner.gather(1, merged))


def merge_tokens(
    tokens: Tensor, size: Tensor, match: Matching
) -> tuple[Tensor, Tensor]:
    """Replace each group by the mean of its members, weighted by their sizes.

    The order of the result is A's remaining tokens, then all of B.

    Args:
        tokens (Tensor): B×T×D.
        size (Tensor): Positions that each token stands for, B×T.
        match (Matching): From :func:`bipartite_matching`, r pairs.

    Returns:
        tuple[Tensor, Tensor]: Tokens B×(T-r)×D, differentiable in ``tokens``, and their
        sizes B×(T-r).
    """
    in_b = torch.arange(tokens.shape[1] // 2, device=tokens.device)
    # Which merged token joins which of B, B×|B|×r. A product with it adds up the
    # members of a group in a fixed order, which scatter_add on a GPU does not.
    joins = (match.target.unsqueeze(1) == in_b.unsqueeze(-1)).to(size.dtype)

    a, b = tokens[:, 0::2], tokens[:, 1::2]
    size_a, size_b = size[:, 0::2].unsqueeze(-1), size[:, 1::2].unsqueeze(-1)
    size_merged = _take(size_a, match.merged)  # B×r×1
    weighted = _take(a, match.merged) * size_merged  # B×r×D
    with no_autocast(tokens):
        new_size_b = size_b + joins @ size_merged
        new_b = (b * size_b + joins @ weighted.to(size.dtype)) / new_size_b
    return (
        torch.cat([_take(a, match.kept), new_b.to(tokens.dtype)], dim=1),
        torch.cat([_take(size_a, match.kept), new_size_b], dim=1).squeeze(-1),
    )


def merge_groups(group: Tensor, match: Matching, length: int) -> Tensor:
    """Follow the raster positions through one merge.

    Args:
        group (Tensor): Token of each raster position before the merge, B×L int64, as
            position in the sequence of ``length`` tokens with the class token.
        match (Matching): The merge.
        length (int): Tokens before the merge, T.

    Returns:
        Tensor: Token of each raster position after the merge, B×L int64.
    """
    batch, kept = match.kept.shape
    after = torch.empty(batch, length, dtype=torch.int64, device=group.device)
    in_b = torch.arange(length // 2, device=group.device)
    after[:, 1::2] = kept + in_b
    after.scatter_(1, 2 * match.merged, kept + match.target)
    in_kept = torch.arange(kept, device=group.device).expand(batch, kept)
    after.scatter_(1, 2 * match.kept, in_kept)
    return after.gather(1, group)


def _take(tokens: Tensor, position: Tensor) -> Tensor:
    """Tokens at the given positions: B×T×D, B×n -> B×n×D."""
    return tokens.gather(1, position.unsqueeze(-1).expand(-1, -1, tokens.shape[-1]))
