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
from typing import NamedTuple

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
        room = self.room(begins, rank)
        return ~room.out(0, room.level + room.between)

    def room(self, begins: Tensor, ranks: Tensor) -> Room:
        """What bounds the places of n groups that are drawn one after the other.

        Args:
            begins (Tensor): See :meth:`allowed`, B×K.
            ranks (Tensor): Of the groups, none of which is there, B×n int64, ascending.

        Returns:
            Room: For each of them.
        """
        keep, length = begins.shape[1], self.open.shape[1]
        number = torch.arange(keep, device=begins.device)
        place = torch.arange(length, device=begins.device)
        rank, first = ranks.unsqueeze(-1), begins.unsqueeze(1)
        lower, upper = (  # B×n×K
            (first >= 0) & (number < rank),
            (first >= 0) & (number > rank),
        )
        below, above = (  # ranks of the next ones that are there
            torch.where(lower, number, -1).amax(dim=-1),
            torch.where(upper, number, keep).amin(dim=-1),
        )
        start = torch.where(lower, first, -1).amax(dim=-1)
        end = torch.where(upper, first, length).amin(dim=-1)
        end = end.where(ranks > 0, 1)
        before = F.pad(self.open.cumsum(dim=1), (1, 0))  # open ones before a place
        above_it = before.gather(1, end).unsqueeze(-1) - before[:, None, 1:]
        fits = self.open.unsqueeze(1) & (place < end.unsqueeze(-1))
        fits &= (above_it >= (above - ranks - 1).unsqueeze(-1)) | (rank == 0)
        # The rank before it has been drawn when a group is.
        below = below.maximum(F.pad(ranks[:, :-1], (1, 0), value=-1))
        rest = (0, 2**self.bits - length)
        return Room(
            F.pad(fits, rest),
            F.pad(before[:, :-1], rest),
            F.pad(before[:, 1:], rest, value=length),
            before.gather(1, start + 1),
            ranks - below - 1,
        )

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
            ranks (Tensor): Of the groups, none of which is there, B×n int64.
            choose (Callable): From logits B×1×2^p and noise B×1×… to values B×1.
            logits (Tensor): B×n×2^p.
            noise (Tensor): B×n×….

        Returns:
            Tensor: B×n int64.
        """
        ranks, order = ranks.sort(dim=1)
        rows = torch.arange(len(ranks), device=ranks.device).unsqueeze(1)
        logits, noise = logits[rows, order], noise[rows, order]
        room = self.room(begins, ranks)
        drawn: list[Tensor] = []
        level = room.level[:, :1]
        for i in range(ranks.shape[1]):
            if drawn:  # what was drawn before lies below
                level = level.maximum(room.until.gather(1, drawn[-1]))
                level = level.maximum(room.level[:, i : i + 1])
            out = room.out(i, level + room.between[:, i : i + 1]).unsqueeze(1)
            value = choose(
                logits[:, i : i + 1].masked_fill(out, -torch.inf), noise[:, i : i + 1]
            )
            drawn.append(value)
        return torch.empty_like(ranks).scatter_(1, order, torch.cat(drawn, dim=1))


class Room(NamedTuple):
    """What bounds the first places of n groups of each image.

    Groups below take places from the left: of open places, a group has at least as many
    before it as there were up to the last place below that is taken, and one more for
    each group between. (An open place that has so many before it lies behind that one.)

    Attributes:
        fits (Tensor): Open places that leave room for the groups above, B×n×2^p bool.
        before (Tensor): Open places before each place, B×2^p int64.
        until (Tensor): Open places up to each place, itself counted, B×2^p int64.
        level (Tensor): Up to the last place below that was taken from the start, B×n.
        between (Tensor): Groups between a group and the next one below, B×n.
    """

    fits: Tensor
    before: Tensor
    until: Tensor
    level: Tensor
    between: Tensor

    def out(self, i: int, least: Tensor) -> Tensor:
        """Where group i cannot begin, if so many open places are to be before it.

        Args:
            i (int): Of the n groups.
            least (Tensor): B×1 int64.

        Returns:
            Tensor: B×2^p bool; nowhere, if it could not begin anywhere.
        """
        fits = self.fits[:, i] & (self.before >= least)
        return fits.any(dim=1, keepdim=True) & ~fits
