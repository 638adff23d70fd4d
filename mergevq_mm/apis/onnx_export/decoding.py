"""MergeAR's two graphs: what draws the first code of a sequence, and the next one.

What is remembered goes in and comes out, longer by one place: keys and values of all
layers, and which codes have been there. It is the full cache: nothing is evicted, and
what the window hides is masked. Both graphs draw, from numbers in [0, 1) that they are
given, so that a sample is what the generator itself draws of the same numbers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ...models.generators.code_drawing import SamplingRule
from ...models.generators.mergear import MergeAR
from ...models.generators.visibility import visible
from .graphs import Graph, Inputs

Drawn = tuple[Tensor, Tensor, Tensor]  # code, memory, seen
OUTPUTS = ('code', 'new_memory', 'new_seen')


class GrowingMemory:
    """A transformer's memory that is handed in and comes out longer.

    Args:
        past (Tensor, optional): Keys and values of all layers, layers×2×B×H×n×c.
            Defaults to None, nothing yet.
    """

    def __init__(self, past: Tensor | None = None) -> None:
        self.past = past
        self.made: list[Tensor] = []

    def __call__(self, layer: int, new: Tensor) -> Tensor:
        """See :class:`mergevq_mm.models.generators.transformer.Memory`."""
        if self.past is not None:
            new = torch.cat([self.past[layer], new], dim=3)
        self.made.append(new)
        return new

    def whole(self, rows: int) -> Tensor:
        """What is there now, layers×2×rows×B×H×n×c."""
        made: Tensor = torch.stack(self.made).unflatten(2, (rows, -1))
        return made


class DecodingGraph(nn.Module):
    """What both graphs have: the generator's parts, and how it draws.

    Args:
        model (MergeAR): Of the whole raster.
        keep (int): K.
        rule (SamplingRule): How to draw.
    """

    factors: Tensor
    scale: Tensor

    def __init__(self, model: MergeAR, keep: int, rule: SamplingRule) -> None:
        super().__init__()
        self.class_embedding = model.class_embedding
        self.keep_embedding = model.keep_embedding
        self.embedding, self.transformer = model.embedding, model.transformer
        self.head = model.head
        self.rule, self.rows = rule, 1 + rule.guided
        self.prefix, self.window = model.prefix, model.window
        self.num_classes, self.row = model.num_classes, model.keeps.index(keep)
        length, parts = model.tokenizer.length, len(model.head.split)
        factors = model.factors(keep).detach()
        self.register_buffer('factors', factors, persistent=False)
        scale = rule.scales(length, parts, factors)  # L×parts
        self.register_buffer('scale', scale, persistent=False)

    def draw(self, context: Tensor, noise: Tensor, place: Tensor) -> Tensor:
        """Draw the code of a place.

        Args:
            context (Tensor): (rows·B)×1×D.
            noise (Tensor): In [0, 1), B×parts.
            place (Tensor): Raster position, one number.

        Returns:
            Tensor: B int64.
        """
        noise, scale = noise.unsqueeze(1), self.scale[place]  # B×1×parts, 1×parts

        def choose(part: int, logits: Tensor, before: Tensor | None) -> Tensor:
            return self.rule.choose(part, self.rule.guide(part, logits, scale), noise)

        return self.head.draw(context, self.embedding, choose).squeeze(1)


class StartGraph(DecodingGraph):
    """Runs the prefix of class and K and draws the first code."""

    def forward(self, label: Tensor, noise: Tensor) -> Drawn:
        """Classes B and noise B×parts to the first codes B and what is remembered."""
        labels = label
        if self.rule.guided:
            labels = torch.cat([label, torch.full_like(label, self.num_classes)])
        tokens = [self.class_embedding(labels)]
        if self.keep_embedding is not None:
            tokens.append(self.keep_embedding(torch.full_like(labels, self.row)))
        x = torch.stack(tokens, dim=1)  # (rows·B)×P×D
        step = torch.arange(self.prefix, device=label.device)
        past = step[:, None] >= step  # P×P
        memory = GrowingMemory()
        x = self.transformer(x, self.factors[: self.prefix], past, memory)
        code = self.draw(x[:, -1:], noise, step[:1])
        seen = label.unsqueeze(1).expand(-1, self.prefix)
        return code, memory.whole(self.rows), torch.full_like(seen, -1)


class StepGraph(DecodingGraph):
    """Takes the code that was drawn last, and draws the next one."""

    def forward(
        self, code: Tensor, noise: Tensor, memory: Tensor, seen: Tensor
    ) -> Drawn:
        """Run one place.

        Args:
            code (Tensor): Drawn last, B int64.
            noise (Tensor): For the next one, B×parts.
            memory (Tensor): Keys and values, layers×2×rows×B×H×n×c.
            seen (Tensor): At each of the n places a code that was new there, B×n int64;
                -1 in the prefix and where a code was repeated.

        Returns:
            tuple[Tensor, Tensor, Tensor]: The next code, memory and seen, n + 1 places.
        """
        code = code.unsqueeze(1)
        known = (seen == code).any(dim=1, keepdim=True)
        seen = torch.cat([seen, torch.where(known, -1, code)], dim=1)  # B×(n+1)
        places = torch.arange(seen.shape[1], device=seen.device)
        place = places[-1:]
        kept = (seen >= 0) | (places < self.prefix)
        mask = visible(place, places, kept, self.window).expand(seen.shape)
        x = self.embedding(code).repeat(self.rows, 1, 1)
        grown = GrowingMemory(memory.flatten(2, 3))
        mask = mask.repeat(self.rows, 1)[:, None, None]
        x = self.transformer(x, self.factors[place], mask, grown)
        drawn = self.draw(x, noise, place - self.prefix + 1)
        return drawn, grown.whole(self.rows), seen


def decoding_graphs(
    model: MergeAR, keep: int, rule: SamplingRule, facts: Mapping[str, Any]
) -> list[Graph]:
    """The two graphs of a generator at one K.

    Args:
        model (MergeAR): In evaluation mode.
        keep (int): K.
        rule (SamplingRule): How to draw.
        facts (Mapping): Of all graphs of its tokenizer.

    Returns:
        list[Graph]: 'start_k<K>' and 'step_k<K>'.
    """
    start, step = (kind(model, keep, rule) for kind in (StartGraph, StepGraph))
    parts = len(model.head.split)
    facts = {
        **facts,
        'keep': keep,
        'code_parts': parts,
        'classes': model.num_classes,
        'cache': 'full',
        'sampling': rule_facts(rule),
    }

    def noise(batch: int, places: int) -> Tensor:
        rng = torch.Generator().manual_seed(batch)
        return torch.rand(places, batch, parts, generator=rng)

    def first(batch: int) -> Inputs:
        label = torch.arange(batch) % model.num_classes
        return {'label': label, 'noise': noise(batch, 1)[0]}

    @torch.no_grad()
    def later(batch: int) -> Inputs:
        """After some steps: one for a single sample, more for larger batches."""
        numbers = noise(batch, batch + 1)
        code, memory, seen = start(**first(batch))
        for row in numbers[: batch - 1]:
            code, memory, seen = step(code, row, memory, seen)
        return {'code': code, 'noise': numbers[-1], 'memory': memory, 'seen': seen}

    batch = {0: 'batch'}
    return [
        Graph(
            f'start_k{keep}',
            start,
            first,
            OUTPUTS,
            {'label': batch, 'noise': batch},
            {**facts, 'graph': 'start'},
            _code,
        ),
        Graph(
            f'step_k{keep}',
            step,
            later,
            OUTPUTS,
            {
                'code': batch,
                'noise': batch,
                'memory': {3: 'batch', 5: 'past'},
                'seen': {0: 'batch', 1: 'past'},
            },
            {**facts, 'graph': 'step'},
            _code,
        ),
    ]


def _code(made: Sequence[Tensor]) -> Tensor:
    """The drawn codes, of the outputs."""
    return made[0]


def rule_facts(rule: SamplingRule) -> dict[str, Any]:
    """How a graph draws, as its file says it."""
    names = ('temperature', 'top_k', 'top_p', 'guidance', 'guidance_schedule')
    return {name: getattr(rule, name) for name in names}
