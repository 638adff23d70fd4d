"""Which earlier tokens a step of MergeAR may see (paper Fig. 4, spec section 11.2).

A query sees the prefix, the last w tokens up to itself, and of all the earlier tokens
the first occurrence of each group. Later members of a group repeat its code, so that
nothing new is lost when they go.

Differences: the paper's Eq. 12 as printed admits every earlier token; this is what its
figure draws. Groups are told apart by their codes, in training as in generation, where
nothing else is known; the groups of the source map are a switch.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def first_of_its_kind(labels: Tensor) -> Tensor:
    """Which entries of a sequence have not been there before.

    Args:
        labels (Tensor): Codes or groups in raster order, B×L int64.

    Returns:
        Tensor: B×L bool.
    """
    order = labels.argsort(dim=1, stable=True)
    ranked = labels.gather(1, order)
    new = torch.ones_like(ranked, dtype=torch.bool)
    new[:, 1:] = ranked[:, 1:] != ranked[:, :-1]
    return torch.empty_like(new).scatter_(1, order, new)


def visible(
    query_step: Tensor, key_step: Tensor, key_kept: Tensor | bool, window: int | None
) -> Tensor:
    """The rule itself, for places of a sequence: prefix first, then the tokens.

    Args:
        query_step (Tensor): Place of each query, broadcastable to the result.
        key_step (Tensor): Place of each key; larger than any query's where there is no
            key.
        key_kept (Tensor | bool): Whether the key is of the prefix or a first
            occurrence.
        window (int, optional): w. None: nothing is ever left out.

    Returns:
        Tensor: Bool.
    """
    age = query_step - key_step
    past = age >= 0
    if window is None:
        return past
    return past & (key_kept | (age < window))


def attention_bias(seen: Tensor, dtype: torch.dtype) -> Tensor:
    """What attention adds to its logits: the logarithm of how often a key counts.

    The kernel would make it of the mask at each layer, and copy it into rows of whole
    vectors; here both are done once for all layers.

    Args:
        seen (Tensor): True where a query may look, …×n×m bool.
        dtype (torch.dtype): Of the queries.

    Returns:
        Tensor: …×n×m, 0 or -inf; its rows begin at multiples of 8 numbers.
    """
    keys = seen.shape[-1]
    # A graph for ONNX has any number of keys; who runs it lays its memory out.
    if not torch.onnx.is_in_onnx_export() and keys % 8:
        seen = F.pad(seen, (0, -keys % 8))
    return seen.log().to(dtype)[..., :keys]


def mergear_mask(first: Tensor, prefix: int, window: int | None) -> Tensor | None:
    """The training mask over prefix and tokens.

    It is dense. For L = 1024 and 256 groups drawn uniformly, 38 % of the causal pairs
    are seen, but first occurrences lie everywhere: no block of 128×128 is empty that
    plain causal attention visits, so that there is nothing for a block mask to skip.

    Args:
        first (Tensor): Whether a token is the first of its group, B×L bool.
        prefix (int): Number of prefix tokens, P.
        window (int, optional): w.

    Returns:
        Tensor, optional: B×1×(P+L)×(P+L) bool, row i what query i may see; None, plain
        causal, where ``window`` is None.
    """
    if window is None:
        return None
    batch, length = first.shape
    step = torch.arange(prefix + length, device=first.device)
    kept = torch.cat([first.new_ones(batch, prefix), first], dim=1)
    return visible(step[:, None], step, kept[:, None, None, :], window)
