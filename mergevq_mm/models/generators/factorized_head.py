"""Codes of 18 bits in two halves: a vocabulary of 64 and one of 4096 instead of 2^18.

Differences: none to the released generator. It is Open-MAGVIT2's scheme, which the
paper uses without a word on it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce

import torch
from torch import Tensor, nn

from ..quantizers.lfq_functional import split_index
from .rotary import no_position, rotary_factors
from .transformer import CausalTransformer


class FactorizedEmbedding(nn.Module):
    """A code as the sum of the embeddings of its parts.

    Args:
        dim (int): Width, D.
        split (Sequence[int]): Bits of the parts, the lowest first.
    """

    def __init__(self, dim: int, split: Sequence[int]) -> None:
        super().__init__()
        self.split = tuple(split)
        self.parts = nn.ModuleList(nn.Embedding(2**bits, dim) for bits in split)

    def forward(self, index: Tensor) -> Tensor:
        """Embed codes: B×n int64 to B×n×D."""
        parts = split_index(index, self.split)
        embedded: list[Tensor] = [
            e(part) for e, part in zip(self.parts, parts, strict=True)
        ]
        return reduce(torch.add, embedded)


class PartMemory:
    """Keys and values of the parts of a code that were read so far."""

    def __init__(self) -> None:
        self.read: dict[int, Tensor] = {}

    def __call__(self, layer: int, new: Tensor) -> Tensor:
        """See :class:`.transformer.Memory`."""
        if layer in self.read:
            new = torch.cat([self.read[layer], new], dim=3)
        self.read[layer] = new
        return new


class FactorizedHead(nn.Module):
    """A small transformer within a token predicts its parts, one after the other.

    It reads the context and the embeddings of the parts that are known:
    p(code | context) = p(pre | context) · p(post | context, pre).

    Args:
        dim (int): Width, D.
        split (Sequence[int]): Bits of the parts, the lowest first.
        num_heads (int): Heads.
        num_layers (int): Blocks. Defaults to 2.
        dropout (float): Defaults to 0.
        ffn_multiple (int): See ``CausalTransformer``. Defaults to 256.
    """

    factors: Tensor

    def __init__(
        self,
        dim: int,
        split: Sequence[int],
        num_heads: int,
        num_layers: int = 2,
        dropout: float = 0.0,
        ffn_multiple: int = 256,
    ) -> None:
        super().__init__()
        self.split = tuple(split)
        self.transformer = CausalTransformer(
            dim, num_layers, num_heads, dropout, ffn_multiple
        )
        self.norm = nn.RMSNorm(dim, eps=1e-5)
        self.heads = nn.ModuleList(
            nn.Linear(dim, 2**bits, bias=False) for bits in self.split
        )
        # The authors number the parts as the places of a sequence: the first one has
        # no position, as the class token, the others lie at raster positions 0, 1, …
        head_dim = dim // num_heads
        places = torch.arange(len(self.split) - 1)
        later = rotary_factors(
            torch.stack([torch.zeros_like(places), places], dim=1), head_dim
        )
        factors = torch.cat([no_position(1, head_dim), later])
        self.register_buffer('factors', factors, persistent=False)

    def forward(
        self, context: Tensor, index: Tensor, embedding: FactorizedEmbedding
    ) -> list[Tensor]:
        """Logits of the parts of known codes (teacher forcing).

        Args:
            context (Tensor): B×n×D.
            index (Tensor): The codes to score, B×n int64.
            embedding (FactorizedEmbedding): Of the parts.

        Returns:
            list[Tensor]: For each part logits B×n×2^bits.
        """
        parts = split_index(index, self.split)[:-1]
        known = [e(p) for e, p in zip(embedding.parts, parts, strict=False)]
        pair = torch.stack([context, *known], dim=2)  # B×n×parts×D
        out = self.norm(self.transformer(pair.flatten(0, 1), self.factors))
        out = out.unflatten(0, context.shape[:2])
        return [head(out[:, :, i]) for i, head in enumerate(self.heads)]

    def draw(
        self,
        context: Tensor,
        embedding: FactorizedEmbedding,
        choose: Callable[[int, Tensor, Tensor | None], Tensor],
    ) -> Tensor:
        """Draw a code for each context, part by part.

        Args:
            context (Tensor): B×n×D.
            embedding (FactorizedEmbedding): Of the parts.
            choose (Callable): Called with the number of a part, its logits B×n×2^bits
                and the index that the parts before it make, b×n (None for the first);
                returns the values of the part, b×n int64. Where guidance draws one code
                from several contexts, b is smaller than B and divides it: contexts 0,
                b, 2b, … go on with the value of 0.

        Returns:
            Tensor: Codes, b×n int64.
        """
        batch, number = context.shape[:2]
        x, memory = context.reshape(batch * number, 1, -1), PartMemory()
        joined: Tensor | None = None
        for i, head in enumerate(self.heads):
            factors = self.factors[i : i + 1] if i else None  # see no_position
            out = self.transformer(x, factors, memory=memory)
            logits = head(self.norm(out)).reshape(batch, number, -1)
            value = choose(i, logits, joined)
            shift = sum(self.split[:i])
            joined = value if joined is None else joined + (value << shift)
            if i + 1 < len(self.heads):
                known = embedding.parts[i](value)  # b×n×D
                known = known.repeat(batch // known.shape[0], 1, 1)
                x = known.reshape(batch * number, 1, -1)
        assert joined is not None  # a code has parts
        return joined
