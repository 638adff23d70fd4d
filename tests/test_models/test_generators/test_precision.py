"""Drawing in bfloat16: what is converted, and how near it stays."""

from __future__ import annotations

import pytest
import tiny_mergear as tiny
import torch
from torch import Tensor
from torch.testing import assert_close

from mergevq_mm.models.generators import MergeAR, RandAR
from mergevq_mm.models.generators.precision import set_precision
from mergevq_mm.utils.operator_count import count_operators

LABELS, SEEDS = torch.tensor([1, 4, 9]), [5, 6, 7]


@pytest.mark.parametrize('kind', [MergeAR, RandAR])
def test_weights_and_cache_but_neither_tokenizer_nor_positions(kind: type) -> None:
    model = tiny.make(kind)
    model.tokenizer.weight = torch.nn.Parameter(torch.ones(2))
    assert set_precision(model, 'fp32') is model
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    set_precision(model, 'bf16')
    for name, parameter in model.named_parameters():
        kept = name.startswith('tokenizer.')
        assert parameter.dtype == (torch.float32 if kept else torch.bfloat16)
    assert {b.dtype for b in model.buffers()} == {torch.float32}
    one = model.sample_codes(LABELS, 4, SEEDS, guidance=1.5)
    two = model.sample_codes(LABELS, 4, SEEDS, guidance=1.5)
    assert torch.equal(one.index, two.index)
    with pytest.raises(ValueError, match="dtype='fp16' is not known; .* fp32, bf16"):
        set_precision(model, 'fp16')
    with pytest.raises(ValueError, match=r'is for generators, .* Linear; use autocast'):
        set_precision(torch.nn.Linear(1, 1), 'bf16')


@pytest.mark.parametrize('cache', ['full', 'compressed'])
@torch.no_grad()
def test_logits_are_near_those_of_float32(cache: str) -> None:
    index = tiny.merged_codes(4)
    exact = tiny.make(MergeAR).logits(index, LABELS, 4)
    model = set_precision(tiny.make(MergeAR), 'bf16')
    logits, decoding = tiny.cached_logits(model, index, LABELS, 4, cache)
    assert decoding.cache.store.rooms[0].dtype == torch.bfloat16
    for ours, forced, theirs in zip(
        logits, model.logits(index, LABELS, 4), exact, strict=True
    ):
        assert ours.dtype == torch.bfloat16
        scale = float(theirs.std())
        assert mean_error(ours, forced) < 0.02 * scale
        assert mean_error(ours, theirs) < 0.05 * scale


def mean_error(ours: Tensor, theirs: Tensor) -> float:
    return float((ours.float() - theirs.float()).abs().mean())


@torch.no_grad()
def test_a_step_converts_little() -> None:
    """Rotation and the draw compute in float32; autocast converts at each product."""
    counts = []
    for way in ('bf16', 'autocast'):
        model = tiny.make(MergeAR)
        if way == 'bf16':
            set_precision(model, way)
        with torch.autocast('cpu', torch.bfloat16, enabled=way == 'autocast'):
            decoding = model.start_decoding(LABELS, 4, SEEDS)
            decoding.start(model.embed_prefix(LABELS, 4))
            read, token = decoding.cache.reserve(2), torch.zeros_like(LABELS)[:, None]
            with decoding.joined, count_operators() as count:
                decoding.advance(token, token, read)
        counts.append(count['aten::_to_copy'])
    assert counts[0] <= tiny.LAYERS + 1 < counts[1]


@torch.no_grad()
def test_noise_and_guidance_stay_exact() -> None:
    model = set_precision(tiny.make(MergeAR), 'bf16')
    decoding = model.start_decoding(LABELS, 4, SEEDS, guidance=1.7)
    assert decoding.noise.dtype == torch.float64
    assert decoding.network.factors.dtype == torch.float32
    assert_close(decoding.scale, torch.full_like(decoding.scale, 1.7))
