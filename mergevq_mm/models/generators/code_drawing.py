"""What all decodings share: how values are drawn, and by which network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from .factorized_head import FactorizedEmbedding, FactorizedHead
from .first_places import Beginnings, split_places
from .sampling import draw, filter_logits, guidance_scale, guide
from .transformer import CausalTransformer, JoinedWeights


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
        one: float = value[part] if isinstance(value, (list, tuple)) else value
        return one

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
class CodeDrawing:
    """Samples in the making; each method runs on the device alone.

    Attributes:
        network (DecodingNetwork): The generator's parts.
        rule (SamplingRule): How to draw.
        noise (Tensor): For each code, B×n×parts, in [0, 1).
        index (Tensor): The codes, B×n int64, filled in.
        beginnings (Beginnings, optional): Where groups may begin, where that is the
            first part of a code. Defaults to None.
        scale (Tensor, optional): Guidance at each token and part, n×parts. Defaults to
            None, that of the rule.
        joined (JoinedWeights): To be entered while steps run.
    """

    network: DecodingNetwork
    rule: SamplingRule
    noise: Tensor
    index: Tensor
    beginnings: Beginnings | None = field(default=None, kw_only=True)
    scale: Tensor = field(default=None, kw_only=True)  # type: ignore[assignment]  # set below
    joined: JoinedWeights = field(init=False)

    def __post_init__(self) -> None:
        if self.scale is None:
            _, length, parts = self.noise.shape
            self.scale = self.rule.scales(length, parts, like=self.noise)
        network = self.network
        self.joined = JoinedWeights(network.transformer, network.head.transformer)

    @property
    def rows(self) -> int:
        """int: Sequences for each sample, 1 or 2."""
        return 2 if self.rule.guided else 1

    def begun(self, there: Tensor) -> Tensor:
        """Where groups begin that are there (B×K bool), B×K int64, -1 for others."""
        assert self.beginnings is not None
        first = split_places(self.index, self.beginnings.bits)[1]
        return first.masked_fill(~there, -1)

    def draw_codes(
        self,
        context: Tensor,
        noise: Tensor,
        scale: Tensor,
        begins: Tensor | None = None,
        ranks: Tensor | None = None,
    ) -> Tensor:
        """Draw a code for each context, part by part.

        Args:
            context (Tensor): (rows·B)×n×D.
            noise (Tensor): For each place and part, B×n×parts.
            scale (Tensor): Guidance at each place and part, …n×parts.
            begins (Tensor, optional): Where groups begin that are there, B×K int64, -1
                for others, where ``beginnings`` are drawn. Defaults to None.
            ranks (Tensor, optional): Then, of the groups to draw, B×n int64. Defaults
                to None.

        Returns:
            Tensor: B×n int64.
        """

        def choose(part: int, logits: Tensor, before: Tensor | None) -> Tensor:
            logits = self.rule.guide(part, logits, scale)
            if part == 0 and self.beginnings is not None:
                assert begins is not None and ranks is not None
                choose_place = partial(self.rule.choose, 0)
                return self.beginnings.choose(
                    begins, ranks, choose_place, logits, noise
                )
            logits = self.restricted(logits, part, before)
            return self.rule.choose(part, logits, noise)

        return self.network.head.draw(context, self.network.embedding, choose)

    def restricted(self, logits: Tensor, part: int, before: Tensor | None) -> Tensor:
        """Take values out that may not be drawn; here there are none.

        Args:
            logits (Tensor): B×n×V.
            part (int): Number of the part.
            before (Tensor, optional): What the earlier parts make, B×n.

        Returns:
            Tensor: B×n×V.
        """
        return logits
