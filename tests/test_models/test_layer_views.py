"""Groups after each block, and the class token's attention."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from mergevq_mm.models.backbones import MergeVQEncoder
from mergevq_mm.models.backbones.layer_views import (
    attention_of_first,
    class_attention,
    merged_layers,
)
from mergevq_mm.models.utils.merge_schedule import merge_schedule
from mergevq_mm.models.utils.token_merging import follow_merges

ARCH = dict(stem='patch', embed_dims=16, patch_size=4, num_layers=3, num_heads=2)
KEEP = 5


@pytest.fixture
def encoder() -> MergeVQEncoder:
    encoder = MergeVQEncoder(ARCH, img_size=16, layer_scale=1.0).eval()
    for parameter in encoder.parameters():
        nn.init.normal_(parameter, std=0.3)
    return encoder


@torch.no_grad()
def test_layers_end_in_what_encode_returns(encoder: MergeVQEncoder) -> None:
    images = torch.randn(2, 3, 16, 16)
    layers = list(merged_layers(encoder, images, KEEP))
    left = 16
    for merged, r in zip(layers, merge_schedule(16, KEEP, 3, 'linear'), strict=True):
        left -= r
        assert merged.tokens.shape == (2, left, 16)
        assert merged.group.max() == left - 1
    for found, expected in zip(layers[-1], encoder.encode(images, KEEP), strict=True):
        assert torch.equal(torch.as_tensor(found), torch.as_tensor(expected))


@torch.no_grad()
def test_groups_only_grow(encoder: MergeVQEncoder) -> None:
    layers = list(merged_layers(encoder, torch.randn(2, 3, 16, 16), KEEP))
    for before, after in zip(layers, layers[1:]):
        for one, two in zip(before.group, after.group):
            for group in one.unique():  # members of a group stay together
                assert two[one == group].unique().numel() == 1


@torch.no_grad()
def test_layers_are_those_of_a_shorter_plan(encoder: MergeVQEncoder) -> None:
    images = torch.randn(1, 3, 16, 16)
    plan = merge_schedule(16, KEEP, 3, 'linear')
    for number, merged in enumerate(merged_layers(encoder, images, KEEP), 1):
        stopped = encoder.encode(images, removed=[*plan[:number], *[0] * (3 - number)])
        assert torch.equal(merged.group, stopped.group)


@torch.no_grad()
def test_attention_of_the_first_token_by_a_loop() -> None:
    x, qkv, size = torch.randn(2, 5, 8), nn.Linear(8, 24), torch.tensor([1, 2, 3, 1, 4])
    found = attention_of_first(x, qkv, 2, size.expand(2, -1))
    for b in range(2):
        projected = qkv(x[b])  # 5×24: queries, keys, values, each of two heads
        for h in range(2):
            query = projected[0, 4 * h : 4 * h + 4]
            scores = []
            for t in range(5):
                key = projected[t, 8 + 4 * h : 12 + 4 * h]
                product = sum(float(a * c) for a, c in zip(query, key))
                scores.append(float(size[t]) * math.exp(product / 2))
            expected = torch.tensor(scores) / sum(scores)
            torch.testing.assert_close(found[b, h], expected, rtol=1e-5, atol=1e-6)


@torch.no_grad()
@pytest.mark.parametrize('keep', [None, KEEP])
@pytest.mark.parametrize('layer', [0, 1, -1])
def test_class_attention_explains_the_output(
    encoder: MergeVQEncoder, keep: int | None, layer: int
) -> None:
    """The attended values are those of torch's own attention, as the block uses it."""
    images = torch.randn(2, 3, 16, 16)
    found = class_attention(encoder, images, keep, layer)
    assert found.shape == (2, 2, 16)

    x, grid = encoder.embed(images)
    size, matches = None, ()
    plan = encoder.plan(grid, keep)
    wanted = layer % 3
    for block, r in zip(encoder.layers[:wanted], plan):
        x, size, matches = block(x, size, matches, r)
    block = encoder.layers[wanted]
    normed = block.norm1(x)
    values = block.attn.qkv(normed)[..., 32:].unflatten(2, (2, 8))  # B×T×h×8
    group = follow_merges(x, matches, grid[0] * grid[1])
    on_grid = values.gather(1, group[..., None, None].expand(-1, -1, 2, 8))
    own = 1 - found.sum(dim=-1)  # what the class token keeps for itself
    assert (own > 0).all()
    mixed = torch.einsum('bhl,blhd->bhd', found, on_grid)
    mixed = mixed + own[..., None] * values[:, 0]
    expected = block.attn(normed, size)[0][:, 0]
    torch.testing.assert_close(
        F.linear(mixed.flatten(1), block.attn.proj.weight, block.attn.proj.bias),
        expected,
        rtol=1e-4,
        atol=1e-5,
    )


def test_unknown_layer(encoder: MergeVQEncoder) -> None:
    with pytest.raises(ValueError, match='layer=3 is no block'):
        class_attention(encoder, torch.zeros(1, 3, 16, 16), layer=3)
