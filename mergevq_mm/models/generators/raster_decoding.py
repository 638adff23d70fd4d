"""Drawing codes one after the other, with keys and values remembered."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..quantizers.lfq_functional import split_index
from .factorized_head import FactorizedEmbedding, FactorizedHead
from .kv_store import KVStore
from .sampling import draw, filter_logits, guidance_scale, guide
from .token_cache import TokenCache
from .transformer import CausalTransformer


@dataclass
class SamplingRule:
    """How values are drawn from logits.

    Each of the first three may be one number or one for each part of a code.

    Attributes:
        temperature (float): 0 is greedy.
        top_k (int): 0 keeps all values.
        top_p (float): 1 keeps all values.
        guidance (float): 1 is none.
        guidance_schedule (str): 'constant' or 'linear'.
        restrict (int, optional): Once a sample has so many distinct codes, only these
            are drawn, part by part.
    """

    temperature: float | Sequence[float] = 1.0
    top_k: int | Sequence[int] = 0
    top_p: float | Sequence[float] = 1.0
    guidance: float | Sequence[float] = 1.0
    guidance_schedule: str = 'constant'
    restrict: int | None = None

    def part(self, name: str, part: int) -> float:
        """Value of an attribute for one part of a code."""
        value = getattr(self, name)
        return value[part] if isinstance(value, (list, tuple)) else value

    @property
    def guided(self) -> bool:
        """bool: Whether there are unconditional contexts beside the conditional."""
        scale = self.guidance
        scales = scale if isinstance(scale, (list, tuple)) else [scale]
        return any(value != 1 for value in scales)

    def guide(self, part: int, logits: Tensor, scale: Tensor) -> Tensor:
        """Guided logits of a part.

        Args:
            part (int): Number of the part.
            logits (Tensor): B×n×V; 2B×n×V where there is guidance.
            scale (Tensor): For each place and part, …n×parts, of :meth:`scales`.

        Returns:
            Tensor: B×n×V.
        """
        return guide(logits, scale[..., part, None]) if self.guided else logits

    def choose(self, part: int, logits: Tensor, noise: Tensor) -> Tensor:
        """Draw the values of a part.

        Args:
            part (int): Number of the part.
            logits (Tensor): B×n×V.
            noise (Tensor): For each place and part, B×n×parts, in [0, 1).

        Returns:
            Tensor: B×n int64.
        """
        logits = filter_logits(
            logits,
            self.part('temperature', part),
            int(self.part('top_k', part)),
            self.part('top_p', part),
        )
        return draw(logits, noise[..., part])

    def scales(self, length: int, parts: int, like: Tensor) -> Tensor:
        """Guidance at each token and part, length×parts."""
        table = [
            [
                guidance_scale(
                    self.part('guidance', part),
                    token / max(length - 1, 1),
                    self.guidance_schedule,
                )
                for part in range(parts)
            ]
            for token in range(length)
        ]
        return torch.tensor(table, dtype=torch.float32, device=like.device)


@dataclass
class DecodingNetwork:
    """What one step of decoding runs through.

    Attributes:
        embedding (FactorizedEmbedding): Of codes.
        transformer (CausalTransformer): Over the sequence.
        head (FactorizedHead): Within a token.
        factors (Tensor): Rotary factors of all places, prefix and tokens, n×(c/2)×2.
    """

    embedding: FactorizedEmbedding
    transformer: CausalTransformer
    head: FactorizedHead
    factors: Tensor


@dataclass
class RasterDecoding:
    """Samples in the making; each method runs on the device alone.

    Attributes:
        network (DecodingNetwork): The generator's parts.
        cache (TokenCache): Of all sequences: B, or 2B where guidance is on.
        rule (SamplingRule): How to draw.
        noise (Tensor): B×L×parts, in [0, 1).
        index (Tensor): The codes, B×L int64, filled in.
    """

    network: DecodingNetwork
    cache: TokenCache
    rule: SamplingRule
    noise: Tensor
    index: Tensor
    scale: Tensor = field(init=False)
    scratch: dict[int, KVStore] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.scale = self.rule.scales(*self.noise.shape[1:], like=self.noise)

    @property
    def rows(self) -> int:
        """int: Sequences for each sample, 1 or 2."""
        return 2 if self.rule.guided else 1

    def start(self, prefix: Tensor) -> Tensor:
        """Run the prefix tokens, (rows·B)×P×D; the context of the first token."""
        placement = self.cache.place_prefix()
        factors = self.network.factors[: prefix.shape[1]]
        transform = self.network.transformer
        return transform(prefix, factors, placement.mask, placement.memory)[:, -1:]

    def advance(self, code: Tensor, token: Tensor, read: int) -> Tensor:
        """Run known codes and return their contexts.

        Args:
            code (Tensor): B×n int64.
            token (Tensor): Their raster positions, B×n int64.
            read (int): Of the cache's ``reserve``.

        Returns:
            Tensor: (rows·B)×n×D; that of token i draws token i + 1.
        """
        code = code.repeat(self.rows, 1)
        step = token.repeat(self.rows, 1) + self.cache.prefix
        placement = self.cache.place(code, step, read)
        x = self.network.embedding(code)
        # Drafts may lie beyond the last place; nobody uses what they say.
        places = self.network.factors
        factors = places[step.clamp(max=places.shape[0] - 1)]
        transform = self.network.transformer
        return transform(x, factors, placement.mask, placement.memory)

    def draw(self, context: Tensor, token: Tensor) -> Tensor:
        """Draw the codes of raster positions.

        Args:
            context (Tensor): (rows·B)×n×D.
            token (Tensor): Positions to draw, B×n int64.

        Returns:
            Tensor: B×n int64.
        """
        last = self.noise.shape[1] - 1
        token = token.clamp(max=last)  # drafts may point beyond the end
        parts = self.noise.shape[2]
        noise = self.noise.gather(1, token.unsqueeze(-1).expand(-1, -1, parts))
        scale = self.scale[token]  # B×n×parts

        def choose(part: int, logits: Tensor, before: Tensor | None) -> Tensor:
            logits = self.rule.guide(part, logits, scale)
            logits = self._restricted(logits, part, before)
            return self.rule.choose(part, logits, noise)

        rows = context.shape[0] * context.shape[1]
        if rows not in self.scratch:
            self.scratch[rows] = self.network.head.scratch(rows, context)
        return self.network.head.draw(
            context, self.network.embedding, choose, self.scratch[rows]
        )

    def _restricted(self, logits: Tensor, part: int, before: Tensor | None) -> Tensor:
        """Take out what no remembered code has, in samples that have enough codes."""
        if self.rule.restrict is None:
            return logits
        batch = logits.shape[0]
        code = self.cache.code[:batch, None]  # B×1×slots, -1 where there is none
        split = self.network.head.split
        fits = code >= 0
        if before is not None:
            below = 2 ** sum(split[:part]) - 1
            fits = fits & ((code & below) == before.unsqueeze(-1))
        value = split_index(code.clamp(min=0), split)[part]
        allowed = torch.zeros(logits.shape, dtype=torch.int32, device=logits.device)
        shape = (batch, logits.shape[1], value.shape[2])
        allowed.scatter_add_(2, value.expand(shape), fits.expand(shape).int())
        enough = self.cache.distinct[:batch, None, None] >= self.rule.restrict
        return logits.masked_fill(enough & (allowed == 0), -torch.inf)


def decode_raster(
    decoding: RasterDecoding,
    prefix: Tensor,
    step: Callable[[Tensor, Tensor, int], Tensor] | None = None,
) -> Tensor:
    """Draw all tokens, one after the other.

    The loop makes no tensors on the host and asks the device for nothing.

    Args:
        decoding (RasterDecoding): The samples, none drawn yet.
        prefix (Tensor): Embedded prefix, (rows·B)×P×D.
        step (Callable, optional): Does what :func:`decode_step` does after
            ``decoding``: compiled, or a captured graph. Defaults to None.

    Returns:
        Tensor: B×L int64.
    """
    index, cache = decoding.index, decoding.cache
    token = torch.zeros_like(index[:, :1])
    code = decoding.draw(decoding.start(prefix), token)
    index[:, :1] = code
    for position in range(index.shape[1] - 1):
        read = cache.reserve(latest=cache.prefix + position)
        if step is None:
            code = decode_step(decoding, code, token, read)
        else:
            code = step(code, token, read)
    return index


def decode_step(
    decoding: RasterDecoding, code: Tensor, token: Tensor, read: int
) -> Tensor:
    """One step for each sample: the next code, with static shapes, on the device alone.

    Args:
        decoding (RasterDecoding): The samples; cache and ``index`` are filled in place.
        code (Tensor): The code that was drawn last, B×1 int64.
        token (Tensor): Its raster position, B×1 int64; moved on by one in place.
        read (int): Slots of the cache to read.

    Returns:
        Tensor: The next code, B×1 int64.
    """
    context = decoding.advance(code, token, read)
    token += 1
    code = decoding.draw(context, token)
    decoding.index.scatter_(1, token, code)
    return code
