"""The source map in L integers against the dense source matrix."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mergevq_mm.models.utils.group_map import (
    RecoverInOrder,
    first_occurrence,
    group_sizes,
    raster_order,
    recover_tokens,
    source_accuracy,
    source_matrix,
)
from mergevq_mm.models.utils.token_merging import (
    bipartite_matching,
    follow_merges,
    merge_tokens,
)


@st.composite
def maps(draw: st.DrawFn) -> tuple[Tensor, int]:
    """A random map B×L on which each of K groups has at least one position."""
    batch, length = draw(st.integers(1, 3)), draw(st.integers(1, 40))
    keep = draw(st.integers(1, length))
    torch.manual_seed(draw(st.integers(0, 2**31)))
    rows = []
    for _ in range(batch):
        extra = torch.randint(keep, (length - keep,))
        row = torch.cat([torch.arange(keep), extra])
        rows.append(row[torch.randperm(length)])
    return torch.stack(rows), keep


properties = settings(max_examples=60, deadline=None, derandomize=True)


@given(maps())
@properties
def test_recovery_is_the_product_with_the_source_matrix(drawn: tuple) -> None:
    group, keep = drawn
    z = torch.randn(group.shape[0], keep, 3, dtype=torch.float64)
    source = source_matrix(group, keep)
    assert source.shape == (group.shape[0], keep, group.shape[1])
    assert torch.equal(source.sum(dim=1), torch.ones(group.shape))  # columns one-hot
    assert torch.equal(source.sum(dim=2).long(), group_sizes(group, keep))
    dense = source.double().transpose(1, 2) @ z
    assert torch.equal(recover_tokens(z, group), dense)


@given(maps())
@properties
def test_gradient_of_a_token_is_the_sum_over_its_positions(drawn: tuple) -> None:
    group, keep = drawn
    z = torch.randn(group.shape[0], keep, 3, dtype=torch.float64, requires_grad=True)
    upstream = torch.randn(*group.shape, 3, dtype=torch.float64)
    grad = torch.autograd.grad(recover_tokens(z, group), z, upstream)[0]
    torch.testing.assert_close(grad, source_matrix(group, keep).double() @ upstream)


@given(maps())
@properties
def test_groups_are_numbered_by_first_occurrence(drawn: tuple) -> None:
    group, keep = drawn
    new, old = raster_order(group, keep)
    for b in range(len(group)):
        seen: dict[int, int] = {}
        for position, g in enumerate(group[b].tolist()):
            seen.setdefault(g, len(seen))
            assert new[b, position] == seen[g]
        assert old[b].tolist() == list(seen)  # new number -> old number
    first = first_occurrence(new, keep)
    assert (first.diff(dim=1) > 0).all() and (first[:, 0] == 0).all()
    tokens = torch.randn(*old.shape, 2)
    reordered = recover_tokens(tokens, old)
    assert torch.equal(recover_tokens(reordered, new), recover_tokens(tokens, group))
    assert torch.equal(raster_order(new, keep)[0], new)  # a second time: no change


@given(maps())
@properties
def test_sizes_sum_to_the_number_of_positions(drawn: tuple) -> None:
    group, keep = drawn
    sizes = group_sizes(group, keep)
    assert sizes.dtype == torch.int64 and (sizes.sum(dim=1) == group.shape[1]).all()
    for b in range(len(group)):
        assert sizes[b].tolist() == [int((group[b] == k).sum()) for k in range(keep)]


def test_a_group_without_positions() -> None:
    group = torch.tensor([[2, 0, 2, 0]])
    assert first_occurrence(group, 4).tolist() == [[1, 4, 0, 4]]
    assert group_sizes(group, 4).tolist() == [[2, 0, 2, 0]]
    new, old = raster_order(group, 4)
    assert new.tolist() == [[0, 1, 0, 1]]
    assert old.tolist() == [[2, 0, 1, 3]]


def test_spec_example() -> None:
    # Spec section 18: groups 1,1,3,3,5,5,5,8,8 of nine tokens.
    group = torch.tensor([[7, 7, 1, 1, 0, 0, 0, 3, 3]])
    assert first_occurrence(group, 8)[0, [7, 1, 0, 3]].tolist() == [0, 2, 4, 7]


@given(st.integers(0, 2**31), st.integers(2, 40), st.integers(1, 4))
@properties
def test_unmerged_tokens_are_the_means_of_their_groups(
    seed: int, positions: int, layers: int
) -> None:
    torch.manual_seed(seed)
    x = torch.randn(2, 1 + positions, 3, dtype=torch.float64)
    tokens, size, matches = x, None, []
    dense = torch.eye(1 + positions).expand(2, -1, -1)  # S of the layers so far
    for _ in range(layers):
        length = tokens.shape[1]
        r = int(torch.randint((length - 1) // 2 + 1, ()))
        match = bipartite_matching(torch.randn(2, length, 4), r)
        matches.append(match)
        tokens, size = merge_tokens(tokens, size, match)
        dense = _merge_rows(dense, match)
    keep = tokens.shape[1] - 1
    group = follow_merges(tokens, matches, positions)
    # S by the paper: a merged row is the OR of its members' rows.
    assert torch.equal(source_matrix(group - 1, keep), dense[:, 1:, 1:])
    assert (dense[:, 0, 1:] == 0).all() and (dense[:, 1:, 0] == 0).all()
    back = recover_tokens(tokens, group)
    again = recover_tokens(x[:, 1:], group * 0)  # any B×L×D
    assert back.shape == again.shape == (2, positions, 3)
    for b in range(2):
        for k in range(1, keep + 1):
            inside = group[b] == k
            mean = x[b, 1:][inside].mean(dim=0)
            torch.testing.assert_close(back[b][inside], mean.expand_as(back[b][inside]))
    assert torch.equal(size[:, 1:].long(), group_sizes(group - 1, keep))


def _merge_rows(dense: Tensor, match: tuple) -> Tensor:
    merged = []
    for b in range(len(dense)):
        a, other = dense[b, 2::2], dense[b, 1::2].clone()
        for i, j in zip(match.merged[b].tolist(), match.target[b].tolist()):
            other[j] = torch.maximum(other[j], a[i])
        merged.append(torch.cat([dense[b, :1], a[match.kept[b]], other]))
    return torch.stack(merged)


@pytest.mark.parametrize('dtype', [torch.float64, torch.bfloat16])
def test_the_gradient_in_a_fixed_order_is_that_of_gather(dtype: torch.dtype) -> None:
    group = torch.tensor([[0, 1, 0, 2, 0, 1], [2, 2, 2, 1, 0, 2]])
    tokens = torch.randn(2, 3, 5, dtype=torch.float64).to(dtype).requires_grad_()
    weight = torch.randint(-4, 5, (2, 6, 5)).to(dtype)  # whole numbers add up exactly
    found = []
    for recover in (recover_tokens, RecoverInOrder.apply):
        out = recover(tokens, group)
        (gradient,) = torch.autograd.grad((out * weight).sum(), tokens)
        found.append((out, gradient))
    assert all(torch.equal(a, b) for a, b in zip(*found))
    by_hand = torch.zeros(2, 3, 5, dtype=dtype)
    for b in range(2):
        for position in range(6):
            by_hand[b, group[b, position]] += weight[b, position]
    assert torch.equal(found[1][1], by_hand)


def test_the_gradient_in_a_fixed_order_is_right_twice() -> None:
    group = torch.tensor([[0, 1, 0, 1, 1]])
    tokens = torch.randn(1, 2, 3, dtype=torch.float64, requires_grad=True)
    recover = lambda x: RecoverInOrder.apply(x, group).square()  # noqa: E731
    assert torch.autograd.gradcheck(recover, tokens)
    assert torch.autograd.gradgradcheck(recover, tokens)


@pytest.mark.gpu
def test_the_gradient_is_the_same_in_each_run_on_a_gpu() -> None:
    group = torch.randint(16, (4, 1024), device='cuda')
    tokens = torch.randn(4, 16, 64, device='cuda', requires_grad=True)
    weight = torch.randn(4, 1024, 64, device='cuda')
    gradients = [
        torch.autograd.grad((recover_tokens(tokens, group) * weight).sum(), tokens)[0]
        for _ in range(5)
    ]
    assert all(torch.equal(gradients[0], other) for other in gradients)


def test_source_accuracy_by_hand() -> None:
    group = torch.tensor([[0, 1, 1, 2, 2, 3], [0, 0, 1, 1, 2, 3]])
    predicted = torch.tensor([[0, 1, 3, 2, 1, 0], [0, 0, 1, 1, 2, 3]])
    index = torch.tensor([[7, 9, 4, 9], [1, 2, 3, 4]])  # 1 and 3 have the same code
    assert source_accuracy(predicted, group).tolist() == [0.5, 1.0]
    found = source_accuracy(predicted, group, index)
    torch.testing.assert_close(found, torch.tensor([4 / 6, 1.0]))
    with pytest.raises(ValueError, match='differ in shape; give'):
        source_accuracy(predicted[:, :-1], group, index)
