"""Who sees whom: the hand-made example, a slow triple loop, FlexAttention."""

from __future__ import annotations

import pytest
import tiny_mergear as tiny
import torch
from torch import Tensor
from torch.nn.attention.flex_attention import create_mask
from torch.testing import assert_close

from mergevq_mm.models.generators import CodeBatch, MergeAR
from mergevq_mm.models.generators.visibility import (
    first_of_its_kind,
    mergear_block_mask,
    mergear_mask,
)


def test_the_example_of_the_paper() -> None:
    """Spec section 18: groups, w=2; the context for predicting a token."""
    groups = torch.tensor([[1, 1, 3, 3, 5, 5, 5, 8, 8]])
    first = first_of_its_kind(groups)
    for prefix in (0, 2):
        mask = mergear_mask(first, prefix, 2)[0, 0]
        for token, seen in {
            9: {1, 3, 5, 7, 8},
            7: {1, 3, 5, 6},
            4: {1, 2, 3},
            5: {1, 3, 4},
        }.items():
            row = mask[prefix + token - 2]  # the input that holds the token before
            assert row[:prefix].all()
            places = row[prefix:].nonzero().flatten() + 1
            assert set(places.tolist()) == seen


def test_first_occurrences_against_a_slow_loop() -> None:
    labels = torch.randint(0, 7, (4, 20)) * 1000
    slow = [[c not in row[:i] for i, c in enumerate(row)] for row in labels.tolist()]
    assert first_of_its_kind(labels).tolist() == slow


def slow_mask(first: Tensor, prefix: int, window: int | None) -> Tensor:
    batch, length = first.shape
    total = prefix + length
    mask = torch.zeros(batch, 1, total, total, dtype=torch.bool)
    for b in range(batch):
        for query in range(total):
            for key in range(query + 1):
                mask[b, 0, query, key] = (
                    window is None
                    or key < prefix
                    or query - key < window
                    or bool(first[b, key - prefix])
                )
    return mask


@pytest.mark.parametrize('prefix', [1, 2])
@pytest.mark.parametrize('window', [1, 2, 7, 50])
def test_mask_against_a_slow_loop(prefix: int, window: int) -> None:
    first = torch.rand(3, 17) < 0.3
    mask = mergear_mask(first, prefix, window)
    assert torch.equal(mask, slow_mask(first, prefix, window))
    assert mask.diagonal(dim1=-2, dim2=-1).all()  # each sees itself


def test_without_window_it_is_causal() -> None:
    first = torch.rand(2, 17) < 0.3
    assert mergear_mask(first, 2, None) is None
    assert slow_mask(first, 2, None)[1, 0].equal(torch.ones(19, 19).tril().bool())


@pytest.mark.parametrize('window', [1, 3, None])
def test_block_mask_is_the_dense_mask(window: int | None) -> None:
    first = torch.rand(2, 300) < 0.05
    first[1, 150:] = False
    total = 302
    dense = mergear_mask(first, 2, window)
    if dense is None:
        dense = torch.ones(total, total).tril().bool().expand(2, 1, -1, -1)
    blocks = mergear_block_mask(first, 2, window)
    rule = create_mask(blocks.mask_mod, 2, 1, total, total, device='cpu')
    assert torch.equal(rule, dense)
    # Blocks of 128×128 are visited exactly where somebody sees something.
    padded = torch.nn.functional.pad(dense, (0, 3 * 128 - total) * 2)
    visited = padded.unflatten(3, (3, 128)).unflatten(2, (3, 128)).any(dim=(3, 5))
    assert torch.equal(blocks.to_dense().bool(), visited)


@pytest.mark.filterwarnings('ignore:flex_attention called without')
@pytest.mark.parametrize('window', [2, None])
@torch.no_grad()
def test_flex_attention_computes_the_same(window: int | None) -> None:
    index, labels = tiny.merged_codes(4), torch.tensor([1, 4, 9])
    dense, flex = (
        tiny.make(MergeAR, window=window, attention=name).logits(index, labels, 4)
        for name in ('sdpa', 'flex')
    )
    for ours, theirs in zip(flex, dense, strict=True):
        assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_flex_attention_is_not_trained_on_a_cpu() -> None:
    model = tiny.make(MergeAR, attention='flex')
    group = torch.arange(tiny.LENGTH).clamp(max=3).expand(3, -1)
    batch = CodeBatch(
        tiny.merged_codes(4, length=4), group, torch.tensor([1, 4, 9]), tiny.GRID
    )
    with pytest.raises(ValueError, match="attention='flex' cannot be trained on the c"):
        model.loss_codes(batch)


@pytest.mark.gpu
@pytest.mark.parametrize('window', [2, None])
def test_flex_attention_trains_the_same_on_a_gpu(window: int | None) -> None:
    index, labels = tiny.merged_codes(4).cuda(), torch.tensor([1, 4, 9]).cuda()
    results = []
    arch = {**tiny.ARCH, 'num_heads': 2}  # heads of 16 channels
    for name in ('sdpa', 'flex'):
        model = tiny.make(MergeAR, window=window, attention=name, arch=arch).cuda()
        logits = model.logits(index, labels, 4)
        sum(part.square().mean() for part in logits).backward()
        gradient = model.transformer.blocks[0].attn.qkv.weight.grad
        results.append([*logits, gradient])
    for flex, dense in zip(results[1], results[0], strict=True):
        assert_close(flex, dense, rtol=1e-3, atol=1e-3)


@torch.no_grad()
def test_what_is_out_of_sight_changes_nothing() -> None:
    model = tiny.make(MergeAR, window=2, arch={**tiny.ARCH, 'num_layers': 1})
    labels, kinds = torch.tensor([3]), torch.tensor([[7, 7, 7, 200, 7, 90, 31, 31]])
    kinds = torch.cat([kinds, kinds.new_full((1, 22), 5)], dim=1)

    def moved(place: int) -> list[int]:
        """Outputs that see another code at a place; its kind stays."""
        other = kinds.clone()
        other[0, place] = 120
        (before, _), (after, _) = (
            model.logits(index, labels, 4, kinds) for index in (kinds, other)
        )
        change = (after - before)[0].abs().amax(dim=1)
        assert ((change == 0) | (change > 1e-4)).all()
        return change.nonzero().flatten().tolist()

    # Output i is read at the input that holds code i - 1.
    assert moved(2) == [3, 4]  # a repetition, in the window of two inputs
    assert moved(7) == [8, 9]
    assert moved(3) == list(range(4, 30))  # a first occurrence
    assert moved(29) == []
