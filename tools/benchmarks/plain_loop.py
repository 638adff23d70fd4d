"""What one writes today without this package: a static cache and a compiled step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import mergevq_mm  # noqa: F401  (before torchvision and mmagic)
from mergevq_mm.models.generators import MergeAR, SampledCodes
from mergevq_mm.models.generators.code_drawing import SamplingRule
from mergevq_mm.models.generators.rotary import rotate
from mergevq_mm.models.generators.sampling import filter_logits
from mergevq_mm.models.generators.visibility import first_of_its_kind
from mergevq_mm.models.quantizers.lfq_functional import join_index

Room = tuple[Tensor, Tensor]  # keys and values of a layer, B×H×T×c each


@dataclass
class LoopState:
    """What the steps of a kind of batch read and write, always in the same memory.

    Attributes:
        code (Tensor): The code that was drawn last, B×1 int64.
        token (Tensor): Its raster position, 1 int64.
        index (Tensor): The codes, B×L int64.
        factors (Tensor): Rotary factors of prefix and tokens, (P+L)×(c/2)×2.
        scales (Tensor): Guidance at each token and part, L×parts.
        cache (list[Room]): Of the transformer, T = P + L.
        scratch (list[Room]): Of the head, T = parts of a code.
    """

    code: Tensor
    token: Tensor
    index: Tensor
    factors: Tensor
    scales: Tensor
    cache: list[Room]
    scratch: list[Room]

    def tensors(self) -> list[Tensor]:
        """All of them."""
        rooms = [part for room in self.cache + self.scratch for part in room]
        return [self.code, self.token, self.index, self.factors, self.scales, *rooms]


class PlainLoop:
    """A generator's weights in a loop such as a good engineer writes.

    As gpt-fast's: one slot a place, all of them read at each step under a mask; causal
    attention to everything past; draws by the largest of p / q, q exponential, which
    need no word from the device. Temperature, top-k, top-p and guidance are those of
    the other ways. The loop makes no tensors on the host, and its memory lives across
    batches, so that a compiled step can be captured.

    Args:
        model (MergeAR): Whose weights to use.
        compile (Mapping, optional): Arguments of ``torch.compile`` for the step.
            Defaults to None: it runs as it is.
    """

    def __init__(self, model: MergeAR, compile: Mapping[str, Any] | None = None):
        self.model = model
        self.run = self.step
        if compile is not None:
            self.run = torch.compile(self.step, fullgraph=True, **compile)
        self.states: dict[tuple, LoopState] = {}

    def attend(
        self, block: nn.Module, x: Tensor, factors: Tensor, room: Room, place: Tensor
    ) -> Tensor:
        """One block on new tokens at ``place``, n int64."""
        qkv = block.attn.qkv(block.norm1(x)).unflatten(
            -1, (3, block.attn.num_heads, -1)
        )
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        keys, values = room
        keys[:, :, place] = rotate(key, factors).to(keys.dtype)
        values[:, :, place] = value.to(values.dtype)
        mask = torch.arange(keys.shape[2], device=x.device) <= place[:, None]
        query = rotate(query, factors)
        seen = F.scaled_dot_product_attention(query, keys, values, attn_mask=mask)
        x = x + block.attn.proj(seen.transpose(1, 2).flatten(2))
        return x + block.ffn(block.norm2(x))

    def transform(self, x: Tensor, state: LoopState, place: Tensor) -> Tensor:
        """New tokens at places of the sequence through all blocks."""
        factors = state.factors[place]
        blocks = self.model.transformer.blocks
        for block, room in zip(blocks, state.cache, strict=True):
            x = self.attend(block, x, factors, room, place)
        return x

    def draw(
        self, context: Tensor, rule: SamplingRule, state: LoopState, token: Tensor
    ) -> Tensor:
        """Draw the code of a token from contexts, B×1, with the guidance of each part.

        It is written to its place in ``state.index``.
        """
        head, scale = self.model.head, state.scales[token]  # 1×parts
        x, values = context, []
        for i, linear in enumerate(head.heads):
            place = torch.arange(i, i + 1, device=x.device)
            blocks = head.transformer.blocks
            for block, room in zip(blocks, state.scratch, strict=True):
                x = self.attend(block, x, head.factors[i : i + 1], room, place)
            logits = filter_logits(
                rule.guide(i, linear(head.norm(x)), scale)[:, 0],
                rule.part('temperature', i),
                int(rule.part('top_k', i)),
                rule.part('top_p', i),
            )
            chance = logits.softmax(dim=-1)
            noise = torch.empty_like(chance).exponential_()
            values.append((chance / noise).argmax(dim=-1, keepdim=True))
            if i + 1 < len(head.heads):
                x = self.model.embedding.parts[i](values[i])
                x = torch.cat([x, x]) if rule.guided else x
        code = join_index(values, head.split)
        state.index.index_copy_(1, token, code)
        return code

    def step(self, state: LoopState, rule: SamplingRule) -> None:
        """Draw the next code of each sample."""
        x = self.model.embedding(state.code)
        x = torch.cat([x, x]) if rule.guided else x
        context = self.transform(x, state, state.token + self.model.prefix)
        state.token += 1
        state.code.copy_(self.draw(context, rule, state, state.token))

    def state(self, x: Tensor, keep: int, rule: SamplingRule) -> LoopState:
        """Memory for batches of this kind, taken once.

        Args:
            x (Tensor): Embedded prefix, (rows·B)×P×D.
            keep (int): K.
            rule (SamplingRule): How to draw.
        """
        model, kind, dtype = self.model, x.device.type, x.dtype
        if torch.is_autocast_enabled(kind):
            dtype = torch.get_autocast_dtype(kind)
        key = (tuple(x.shape), dtype, keep, repr(rule))
        if key in self.states:
            return self.states[key]

        def rooms(inner: nn.Module, places: int) -> list[Room]:
            shape = (len(x), inner.num_heads, places, inner.head_dim)
            zeros = [x.new_zeros(shape, dtype=dtype) for _ in inner.blocks]
            return [(zero, zero.clone()) for zero in zeros]

        batch, factors = len(x) // (1 + rule.guided), model.factors(keep)
        length, parts = len(factors) - model.prefix, len(model.head.split)
        index = torch.zeros(batch, length, dtype=torch.int64, device=x.device)
        state = LoopState(
            code=index[:, :1].clone(),
            token=index[0, :1].clone(),
            index=index,
            factors=factors,
            scales=rule.scales(length, parts, like=x),
            cache=rooms(model.transformer, len(factors)),
            scratch=rooms(model.head.transformer, parts),
        )
        for tensor in state.tensors():
            torch._dynamo.mark_static_address(tensor)
        self.states[key] = state
        return state

    @torch.no_grad()
    def __call__(
        self, labels: Tensor, keep: int, rule: SamplingRule | None = None
    ) -> SampledCodes:
        """Draw codes of given classes.

        Args:
            labels (Tensor): B int64.
            keep (int): K.
            rule (SamplingRule, optional): How to draw. Defaults to None: from the
                logits as they are.

        Returns:
            SampledCodes: B×L, with the ``cache_peak_bytes``, ``passes`` and
            ``distinct`` codes of each sample.
        """
        model, rule = self.model, rule or SamplingRule()
        x = model.embed_prefix(model.guided_labels(labels, rule), keep)
        state = self.state(x, keep, rule)
        # What an earlier batch has left in the cache lies behind the mask.
        state.token.zero_()
        place = torch.arange(model.prefix, device=x.device)
        context = self.transform(x, state, place)[:, -1:]
        state.code.copy_(self.draw(context, rule, state, state.token))
        length = state.index.shape[1]
        for _ in range(length - 1):
            self.run(state, rule)
        index = state.index.clone()
        size = sum(part.nbytes for room in state.cache for part in room)
        stats = {
            'distinct': first_of_its_kind(index).sum(dim=1),
            'cache_peak_bytes': torch.full_like(labels, size // len(labels)),
            'passes': torch.full_like(labels, length),
        }
        return SampledCodes(index, keep, True, stats)
