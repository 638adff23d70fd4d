"""Who sees whom: the hand-made example, a slow triple loop."""

from __future__ import annotations

import pytest
import tiny_mergear as tiny
import torch
from torch import Tensor

from mergevq_mm.models.generators import MergeAR
from mergevq_mm.models.generators.visibility import (
    first_of_its_kind,
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


def test_a_block_mask_would_skip_nothing() -> None:
    """What the documentation of ``mergear_mask`` says of 256 groups in L = 1024."""
    torch.manual_seed(0)
    first = first_of_its_kind(torch.randint(256, (8, 1022)))
    mask = mergear_mask(first, 2, 2)  # 1024 × 1024
    causal = torch.ones(1024, 1024, dtype=torch.bool).tril()
    assert mask.sum() / (8 * causal.sum()) == pytest.approx(0.38, abs=0.005)
    blocks = [m.unfold(-2, 128, 128).unfold(-2, 128, 128) for m in (mask, causal)]
    seen, visited = (block.flatten(-2).any(-1) for block in blocks)
    assert torch.equal(seen[:, 0], visited.expand(8, -1, -1))


def test_without_window_it_is_causal() -> None:
    first = torch.rand(2, 17) < 0.3
    assert mergear_mask(first, 2, None) is None
    assert slow_mask(first, 2, None)[1, 0].equal(torch.ones(19, 19).tril().bool())


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
