"""What one writes without this package: a static cache in a python loop."""

from __future__ import annotations

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


class PlainLoop:
    """A generator's weights in a loop such as one finds in other projects.

    As LlamaGen's: one slot a place, all of them read at each step under a mask; causal
    attention to everything past; multinomial sampling, with the same temperature,
    top-k, top-p and guidance as the other ways.

    Args:
        model (MergeAR): Whose weights to use.
    """

    def __init__(self, model: MergeAR) -> None:
        self.model = model

    def attend(
        self, block: nn.Module, x: Tensor, factors: Tensor, cache: Tensor, place: Tensor
    ) -> Tensor:
        """One block on new tokens at ``place``; the cache is 2×B×H×T×c."""
        qkv = block.attn.qkv(block.norm1(x)).unflatten(
            -1, (3, block.attn.num_heads, -1)
        )
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        cache[0, :, :, place] = rotate(key, factors).to(cache.dtype)
        cache[1, :, :, place] = value.to(cache.dtype)
        mask = torch.arange(cache.shape[3], device=x.device) <= place[:, None]
        seen = F.scaled_dot_product_attention(
            rotate(query, factors), cache[0], cache[1], attn_mask=mask
        )
        x = x + block.attn.proj(seen.transpose(1, 2).flatten(2))
        return x + block.ffn(block.norm2(x))

    def new_cache(self, rows: int, places: int, layers: int, x: Tensor) -> Tensor:
        """layers×2×B×H×T×c of zeros, of autocast's type where that is on."""
        inner, kind, dtype = self.model.transformer, x.device.type, x.dtype
        if torch.is_autocast_enabled(kind):
            dtype = torch.get_autocast_dtype(kind)
        shape = (layers, 2, rows, inner.num_heads, places, inner.head_dim)
        return torch.zeros(shape, dtype=dtype, device=x.device)

    def code(
        self, context: Tensor, rule: SamplingRule, scale: Tensor, scratch: Tensor
    ) -> Tensor:
        """Draw a code from contexts, B×1, with the guidance of each part."""
        head = self.model.head
        x, values = context, []
        for i, linear in enumerate(head.heads):
            place = torch.tensor([i], device=x.device)
            for block, room in zip(head.transformer.blocks, scratch, strict=True):
                x = self.attend(block, x, head.factors[i : i + 1], room, place)
            logits = rule.guide(i, linear(head.norm(x)), scale)[:, 0]
            logits = filter_logits(
                logits,
                rule.part('temperature', i),
                int(rule.part('top_k', i)),
                rule.part('top_p', i),
            )
            values.append(torch.multinomial(logits.softmax(dim=-1), 1))
            if i + 1 < len(head.heads):
                x = self.model.embedding.parts[i](values[i])
                x = torch.cat([x, x]) if rule.guided else x
        return join_index(values, head.split)

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
        factors = model.factors(keep)
        length, layers = len(factors) - model.prefix, len(model.transformer.blocks)
        parts, depth = len(model.head.split), len(model.head.transformer.blocks)
        scales = rule.scales(length, parts, like=x)
        cache = self.new_cache(len(x), len(factors), layers, x)
        scratch = self.new_cache(len(x), parts, depth, x)
        place, codes = torch.arange(model.prefix, device=x.device), []
        for position in range(length):
            turn = factors[place]
            for block, room in zip(model.transformer.blocks, cache, strict=True):
                x = self.attend(block, x, turn, room, place)
            codes.append(self.code(x[:, -1:], rule, scales[position], scratch))
            x = model.embedding(codes[-1])
            x = torch.cat([x, x]) if rule.guided else x
            place = torch.tensor([model.prefix + position], device=x.device)
        index = torch.cat(codes, dim=1)
        size = cache.numel() * cache.element_size() // len(labels)
        stats = {
            'distinct': first_of_its_kind(index).sum(dim=1),
            'cache_peak_bytes': torch.full_like(labels, size),
            'passes': torch.full_like(labels, length),
        }
        return SampledCodes(index, keep, True, stats)
