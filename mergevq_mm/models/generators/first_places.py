"""Codes that are drawn with the places where their groups begin.

A generator of the K codes leaves the source map to a prediction. Much of that map is
where each group has its first raster place, and a generator can draw it: as the first
part of a token, before the parts of the code. A token is then a whole number, place +
2^p · code, with p the bits that L places need; embedding, head, caches and noise take
it as they take a code with a part more.

What is drawn is always possible. Groups begin one after the other in the order of
their ranks, the first at place 0, and between two of them there has to be room for
those that are not drawn yet. In an edit they begin within the region.

The paper predicts the whole map from the codes; this part of it is ours.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


def place_bits(length: int) -> int:
    """Bits that L raster places need, at least 1."""
    return max((length - 1).bit_length(), 1)


def join_places(index: Tensor, first: Tensor, bits: int) -> Tensor:
    """Tokens of codes and first places, B×K int64 each."""
    return first + (index << bits)


def split_places(token: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Codes and first places of tokens, B×K int64 each."""
    return token >> bits, token & (2**bits - 1)


@dataclass
class Beginnings:
    """Where the groups of B images may begin.

    Attributes:
        bits (int): Of a place, p.
        open (Tensor): Raster places where a group that is drawn may begin, B×L bool.
    """

    bits: int
    open: Tensor

    def allowed(self, begins: Tensor, rank: Tensor) -> Tensor:
        """Places where one group of each image may begin.

        Args:
            begins (Tensor): Where the groups begin that are there, B×K int64, -1 for
                one that is not.
            rank (Tensor): Of the group in question, B×1 int64.

        Returns:
            Tensor: B×2^p bool. All of them where the group cannot begin anywhere: one
            that is kept in an edit, which nobody draws.
        """
        keep, length = begins.shape[1], self.open.shape[1]
        number = torch.arange(keep, device=begins.device)
        place = torch.arange(length, device=begins.device)
        there = begins >= 0
        lower, upper = there & (number < rank), there & (number > rank)
        below, above = (  # ranks of the next ones that are there
            torch.where(lower, number, -1).amax(dim=1, keepdim=True),
            torch.where(upper, number, keep).amin(dim=1, keepdim=True),
        )
        start = torch.where(lower, begins, -1).amax(dim=1, keepdim=True)
        end = torch.where(upper, begins, length).amin(dim=1, keepdim=True)
        end = end.where(rank > 0, 1)
        before = F.pad(self.open.cumsum(dim=1), (1, 0))  # open ones before a place
        room_below = before[:, :-1] - before.gather(1, start + 1)
        room_above = before.gather(1, end) - before[:, 1:]
        fits = self.open & (place > start) & (place < end)
        fits &= room_below >= rank - below - 1
        fits &= (room_above >= above - rank - 1) | (rank == 0)
        fits = F.pad(fits, (0, 2**self.bits - length))
        return fits | ~fits.any(dim=1, keepdim=True)

    def choose(
        self,
        begins: Tensor,
        ranks: Tensor,
        choose: Callable[[Tensor, Tensor], Tensor],
        logits: Tensor,
        noise: Tensor,
    ) -> Tensor:
        """Draw where n groups of each image begin, the lowest rank first.

        Args:
            begins (Tensor): See :meth:`allowed`, B×K.
            ranks (Tensor): Of the groups, B×n int64.
            choose (Callable): From logits B×1×2^p and noise B×1×… to values B×1.
            logits (Tensor): B×n×2^p.
            noise (Tensor): B×n×….

        Returns:
            Tensor: B×n int64.
        """
        begins, chosen = begins.clone(), torch.empty_like(ranks)
        rows = torch.arange(len(ranks), device=ranks.device).unsqueeze(1)
        for at in ranks.argsort(dim=1).split(1, dim=1):  # B×1 each
            rank = ranks.gather(1, at)
            out = ~self.allowed(begins, rank).unsqueeze(1)
            value = choose(
                logits[rows, at].masked_fill(out, -torch.inf), noise[rows, at]
            )
            begins.scatter_(1, rank, value)
            chosen.scatter_(1, at, value)
        return chosen
