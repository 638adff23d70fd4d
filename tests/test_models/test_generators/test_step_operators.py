"""A step's operators: each is a launch on a GPU, so that they must not creep back."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import tiny_mergear as tiny
import torch
from torch.nn import functional as F
from torch.testing import assert_close

from mergevq_mm.models.generators import MergeAR, RandAR
from mergevq_mm.models.generators.factorized_head import PartMemory
from mergevq_mm.models.generators.precision import set_precision
from mergevq_mm.models.generators.raster_decoding import decode_step
from mergevq_mm.models.generators.rotary import rotary_factors, rotate, rotate_
from mergevq_mm.models.generators.transformer import CausalTransformer, JoinedWeights
from mergevq_mm.models.generators.visibility import attention_bias
from mergevq_mm.utils.operator_count import count_operators

LABELS = torch.tensor([1, 4])
# The depth of size L and its head; the width has no influence on the operators.
SIZE_L = dict(embed_dims=64, num_layers=24, num_heads=4, ffn_multiple=32, head_layers=2)


@torch.no_grad()
def operators_of_a_step(
    cache: str, autocast: bool = False, dtype: str = 'fp32', **options: Any
) -> Counter:
    """What a step in the middle of the sequence runs, by the depth of MergeAR-L."""
    model = tiny.make(
        MergeAR,
        keep=144,
        candidates=[144],
        tokenizer=dict(grid=(16, 16), split=(6, 12)),
        arch=SIZE_L,
    )
    set_precision(model, dtype)
    with torch.autocast('cpu', torch.bfloat16, enabled=autocast):
        decoding = model.start_decoding(LABELS, 144, [5, 6], cache, **options)
        labels = model.guided_labels(LABELS, decoding.rule)
        token = torch.zeros_like(LABELS)[:, None]
        code = decoding.draw(decoding.start(model.embed_prefix(labels, 144)), token)
        with decoding.joined:
            for place in range(4):
                read = decoding.cache.reserve(model.prefix + place)
                with count_operators() as counts:
                    code = decode_step(decoding, code, token, read)
    return counts


@pytest.mark.parametrize(
    ('cache', 'options', 'limit'),
    [
        ('compressed', dict(guidance=(1.9, 2.0)), 420),
        ('compressed', {}, 414),
        ('compressed', dict(guidance=2.0, temperature=0.9, restrict=True), 456),
        ('full', dict(guidance=(1.9, 2.0)), 413),
        ('compressed', dict(guidance=(1.9, 2.0), autocast=True), 536),
        ('compressed', dict(guidance=(1.9, 2.0), dtype='bf16'), 476),
    ],
)
def test_operators_of_a_step(cache: str, options: dict, limit: int) -> None:
    counts = operators_of_a_step(cache, **options)
    assert limit - 8 <= counts.total() <= limit, counts.most_common()
    assert counts['rms_norm'] == 2 * (24 + 2 * 2) + 2
    # A layer's keys and values are put by one operator, which compilers do in place.
    assert counts['aten::index_put_'] == 24 and counts['aten::scatter_.src'] <= 4


@torch.no_grad()
@pytest.mark.parametrize(
    ('guidance', 'first_places', 'limit'),
    [(1.0, False, 406), (2.0, False, 412), (2.0, True, 550)],
)
def test_operators_of_a_pass(guidance: float, first_places: bool, limit: int) -> None:
    """Three codes in the middle, by the depth of RandAR-L; a place more costs few."""
    model = tiny.make(
        RandAR,
        keep=144,
        candidates=[144],
        tokenizer=dict(grid=(16, 16), split=(6, 12)),
        arch=SIZE_L,
        first_places=first_places,
    )
    decoding = model.start_decoding(LABELS, 144, [5, 6], [3] * 48, guidance=guidance)
    known = model.embed_prefix(model.guided_labels(LABELS, decoding.rule), 144)
    with decoding.joined:
        for first in range(0, 9, 3):
            last = first + 3
            with count_operators() as counts:
                code = decoding.draw(decoding.ask(known, first, last), first, last)
                known = decoding.pairs(code, first, last)
    assert limit - 8 <= counts.total() <= limit, counts.most_common()


def test_counting() -> None:
    x = torch.randn(3, 8)
    with count_operators() as counts:
        y = x[1:].t().reshape(-1).view(2, 8)  # one copy
        F.rms_norm(x + 1, (8,)), F.linear(y, x)
    assert counts == Counter(
        {'aten::clone': 1, 'aten::add.Tensor': 1, 'rms_norm': 1, 'aten::mm': 1}
    )
    with count_operators(single=()) as counts:
        F.rms_norm(x, (8,))
    assert counts.total() > 3
    before = counts.total()
    torch.exp(x)  # afterwards nothing is counted
    assert counts.total() == before


# ------------------------------------------------------- fewer operators, the same bits


def real_rotation(x: torch.Tensor, factors: torch.Tensor) -> torch.Tensor:
    """By real numbers, each rounded by itself."""
    cos, sin = (factors.unsqueeze(1) if factors.dim() == 4 else factors).unbind(-1)
    even, odd = x.float()[..., ::2], x.float()[..., 1::2]
    out = torch.empty_like(x)
    out[..., ::2], out[..., 1::2] = even * cos - odd * sin, even * sin + odd * cos
    return out


@pytest.mark.parametrize('channels', [8, 12, 16, 32, 64, 80])
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_rotation_to_the_bit(channels: int, dtype: torch.dtype) -> None:
    for positions in (torch.randint(30, (5, 2)), torch.randint(30, (3, 5, 2))):
        factors = rotary_factors(positions, channels)
        qkv = torch.randn(3, 5, 3, 4, channels).to(dtype).permute(2, 0, 3, 1, 4)
        expected = real_rotation(qkv[:2], factors)
        assert torch.equal(rotate(qkv[:2], factors), expected)
        value = qkv[2].clone()
        rotate_(qkv[:2], factors)
        assert torch.equal(qkv[:2], expected) and torch.equal(qkv[2], value)


def test_rotation_has_the_gradients_of_real_numbers() -> None:
    factors, weight = rotary_factors(torch.randint(9, (4, 2)), 16), torch.randn(4, 16)
    grads = []
    for way in (rotate, real_rotation):
        x = torch.arange(128.0).reshape(2, 4, 16).requires_grad_()
        (way(x, factors) * weight).sum().backward()
        grads.append(x.grad)
    assert_close(*grads)


@pytest.mark.parametrize('keys', [1, 7, 8, 30])
def test_a_bias_sees_what_its_mask_sees(keys: int) -> None:
    query = torch.randn(2, 4, 3, 16)
    key, value = torch.randn(2, 2, 4, keys, 16)
    seen = torch.rand(2, 1, 3, keys) > 0.5
    seen[..., 0] = True
    bias = attention_bias(seen, torch.float32)
    assert bias.shape == seen.shape and all(s % 8 == 0 for s in bias.stride()[:-1])
    assert torch.equal(
        F.scaled_dot_product_attention(query, key, value, attn_mask=bias),
        F.scaled_dot_product_attention(query, key, value, attn_mask=seen),
    )
    assert attention_bias(seen, torch.bfloat16).dtype == torch.bfloat16


@torch.no_grad()
def test_a_token_alone_is_one_without_a_position() -> None:
    """By what it gives, and by what it leaves for the next one."""
    inner = CausalTransformer(64, 2, 4, ffn_multiple=32)
    first, second = torch.randn(2, 6, 1, 64)
    nowhere = torch.zeros(1, 8, 2)
    memory, slow = PartMemory(), PartMemory()
    alone = inner(first, None, memory=memory)
    assert torch.equal(alone, inner(first, nowhere, memory=slow))
    factors = rotary_factors(torch.tensor([[2, 3]]), 16)
    after = inner(second, factors, memory=memory)
    assert torch.equal(after, inner(second, factors, memory=slow))
    both = inner(torch.cat([first, second], dim=1), torch.cat([nowhere, factors]))
    assert_close(torch.cat([alone, after], dim=1), both, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_joined_weights_are_those_of_now() -> None:
    inner = CausalTransformer(64, 2, 4, ffn_multiple=32)
    factors, x = rotary_factors(torch.tensor([[2, 3]]), 16), torch.randn(5, 1, 64)
    keys, weights = list(inner.state_dict()), JoinedWeights(inner)
    ffn, places = inner.blocks[1].ffn, set()
    for _ in range(3):
        expected = inner(x, factors)
        with weights:
            assert torch.equal(inner(x, factors), expected)
            assert list(inner.state_dict()) == keys
            assert ffn.joined.shape == (2 * 192, 64)
            places.add(ffn.joined.data_ptr())
        assert ffn.joined is None
        for parameter in inner.parameters():
            parameter.data.mul_(0.5)  # as an EMA does, unseen by version counters
    assert len(places) == 1
    with pytest.raises(RuntimeError), weights:
        raise RuntimeError
    assert ffn.joined is None
    with torch.autocast('cpu', torch.bfloat16):
        expected = inner(x, factors)
        with JoinedWeights(inner):
            assert ffn.joined.dtype == torch.bfloat16
            assert torch.equal(inner(x, factors), expected)
