"""Bipartite matching and merging against slow loops, in all precisions."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from mergevq_mm.models.utils.attention import MergingBlock
from mergevq_mm.models.utils.group_map import group_sizes, recover_tokens
from mergevq_mm.models.utils.merging_operators import add_rows, add_rows_by_product
from mergevq_mm.models.utils.token_merging import (
    Matching,
    bipartite_matching,
    follow_merges,
    merge_tokens,
)
from mergevq_mm.utils.operator_count import count_operators

SIZES = [(2, 1), (3, 1), (9, 3), (10, 4), (17, 8), (16, 1), (16, 0)]  # T, r


def slow_matching(metric: Tensor, r: int) -> list[tuple[int, int]]:
    """Merged pairs (position in A, position in B) of one image, the best first."""
    rows = metric.double().tolist()

    def cosine(a: list[float], b: list[float]) -> float:
        dot = sum(p * q for p, q in zip(a, b))
        norms = sum(p * p for p in a) * sum(q * q for q in b)
        return dot / norms**0.5

    pairs = []
    for i, token in enumerate(rows[2::2]):
        scores = [cosine(token, other) for other in rows[1::2]]
        best = max(range(len(scores)), key=scores.__getitem__)
        pairs.append((scores[best], i, best))
    pairs.sort(reverse=True)
    return [(i, j) for _, i, j in pairs[:r]]


def slow_merge(
    tokens: Tensor, size: Tensor, group: Tensor, pairs: list[tuple[int, int]]
) -> tuple[Tensor, Tensor, Tensor]:
    """Merge one image's tokens T×D, sizes T and map L by lists of members."""
    length = len(tokens)
    target = dict(pairs)
    side = (length - 1) // 2
    owners = [[0], *([2 * i + 2] for i in range(side) if i not in target)]
    for j in range(length // 2):
        joined = [2 * i + 2 for i in sorted(target) if target[i] == j]
        owners.append([2 * j + 1, *joined])
    new_tokens, new_size = [], []
    for members in owners:
        weight = sum(size[m] for m in members)
        new_tokens.append(sum(tokens[m] * size[m] for m in members) / weight)
        new_size.append(weight)
    owner_of = {m: new for new, members in enumerate(owners) for m in members}
    new_group = torch.tensor([owner_of[int(old)] for old in group])
    return torch.stack(new_tokens), torch.stack(new_size), new_group


def identity_map(batch: int, length: int) -> Tensor:
    """Every position its own token; the class token stands at 0."""
    return torch.arange(1, length).expand(batch, length - 1)


@pytest.mark.parametrize(('length', 'r'), SIZES)
def test_matching_is_the_slow_loop(length: int, r: int) -> None:
    if r > (length - 1) // 2:
        r = (length - 1) // 2
    metric = torch.randn(5, length, 6)
    match = bipartite_matching(metric, r)
    side = (length - 1) // 2
    assert match.kept.shape == (5, side - r)
    for b in range(5):
        pairs = slow_matching(metric[b], r)
        assert list(zip(match.merged[b].tolist(), match.target[b].tolist())) == pairs
        unit = metric[b] / metric[b].norm(dim=-1, keepdim=True)
        cosines = [float(unit[2 + 2 * i] @ unit[1 + 2 * j]) for i, j in pairs]
        assert match.similarity[b].tolist() == pytest.approx(cosines, abs=1e-6)
        merged = {i for i, _ in pairs}
        kept = [i for i in range(side) if i not in merged]
        assert match.kept[b].tolist() == kept  # ascending


@pytest.mark.parametrize(('length', 'r'), [(9, 3), (10, 4), (17, 8)])
def test_merging_and_its_gradient_are_the_slow_loop(length: int, r: int) -> None:
    x = torch.randn(3, length, 4, dtype=torch.float64, requires_grad=True)
    size = torch.randint(1, 5, (3, length)).double()
    size[:, 0] = 1
    match = bipartite_matching(torch.randn(3, length, 6), r)
    group = identity_map(3, length)
    tokens, sizes = merge_tokens(x, size, match)
    groups = follow_merges(tokens, [match], length - 1)
    assert not sizes.requires_grad
    weight = torch.randn_like(tokens)
    grad = torch.autograd.grad((tokens**2 * weight).sum(), x)[0]

    for b in range(3):
        pairs = list(zip(match.merged[b].tolist(), match.target[b].tolist()))
        slow = slow_merge(x[b], size[b], group[b], pairs)
        torch.testing.assert_close(tokens[b], slow[0])
        torch.testing.assert_close(sizes[b], slow[1])
        assert torch.equal(groups[b], slow[2])
        slow_grad = torch.autograd.grad((slow[0] ** 2 * weight[b]).sum(), x)[0]
        torch.testing.assert_close(grad[b], slow_grad[b])


def test_several_layers_end_with_the_mean_of_the_original_members() -> None:
    x = torch.randn(4, 33, 5, dtype=torch.float64)
    tokens, size, matches = x, None, []
    for r in (16, 5, 3):
        matches.append(bipartite_matching(torch.randn(4, tokens.shape[1], 3), r))
        tokens, size = merge_tokens(tokens, size, matches[-1])
    group = follow_merges(tokens, matches, 32)
    assert tokens.shape == (4, 33 - 24, 5)
    # The class token never merges and nothing merges into it.
    assert torch.equal(tokens[:, 0], x[:, 0])
    assert (size[:, 0] == 1).all() and (group > 0).all()
    assert (size[:, 1:].sum(dim=1) == 32).all()
    assert torch.equal(size[:, 1:].long(), group_sizes(group - 1, 8))
    for b in range(4):
        for k in range(1, 9):
            members = x[b, 1:][group[b] == k]
            torch.testing.assert_close(tokens[b, k], members.mean(dim=0))


def test_class_token_stays_even_where_it_is_the_most_similar() -> None:
    metric = torch.randn(2, 9, 4)
    metric[:, 1::2] = metric[:, :1]  # all of B are copies of the class token
    x = torch.randn(2, 9, 3)
    for r in range(5):
        tokens, size = merge_tokens(x, None, bipartite_matching(metric, r))
        assert torch.equal(tokens[:, 0], x[:, 0]) and (size[:, 0] == 1).all()


def test_class_token_stays_where_the_metric_is_not_finite() -> None:
    for value in (float('nan'), float('inf')):
        match = bipartite_matching(torch.full((1, 9, 4), value), 4)
        assert match.kept.tolist() == [[]]
        assert sorted(match.merged[0].tolist()) == [0, 1, 2, 3]


@pytest.mark.parametrize('length', [2, 3, 8, 9])
def test_r_over_half_or_negative_is_refused(length: int) -> None:
    most = (length - 1) // 2
    metric = torch.randn(1, length, 4)
    assert bipartite_matching(metric, most).merged.shape == (1, most)
    with pytest.raises(ValueError, match=rf'r={most + 1} lies outside \[0, {most}\]'):
        bipartite_matching(metric, most + 1)
    with pytest.raises(ValueError, match='r=-1 lies outside'):
        bipartite_matching(metric, -1)


def test_matching_has_no_gradient_and_repeats_itself() -> None:
    metric = torch.randn(3, 65, 8, requires_grad=True)
    metric.data[:, 20:40] = metric.data[:, 10:11]  # ties
    first = bipartite_matching(metric, 20)
    assert not any(part.requires_grad for part in first)
    for _ in range(5):
        again = bipartite_matching(metric, 20)
        assert all(torch.equal(a, b) for a, b in zip(first, again))
    for b in range(3):  # an image is matched alike in any batch
        alone = bipartite_matching(metric[b : b + 1], 20)
        assert all(torch.equal(a[b : b + 1], s) for a, s in zip(first, alone))


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_large_half_precision_numbers_do_not_overflow(dtype: torch.dtype) -> None:
    x = (torch.rand(2, 33, 16) * 6e4).to(dtype)  # squares and sums overflow float16
    match = bipartite_matching(x, 16)
    exact = bipartite_matching(x.double().float(), 16)
    assert all(torch.equal(a, b) for a, b in zip(match, exact))
    for b in range(2):
        pairs = list(zip(match.merged[b].tolist(), match.target[b].tolist()))
        assert sorted(pairs) == sorted(slow_matching(x[b], 16))

    size = torch.full((2, 33), 200.0)
    tokens, sizes = merge_tokens(x, size, match)
    expected, _ = merge_tokens(x.double(), size.double(), match)
    assert tokens.dtype == dtype and sizes.dtype == torch.float32
    torch.testing.assert_close(tokens.double(), expected, rtol=1e-2, atol=0)


def test_autocast_changes_neither_matching_nor_sizes() -> None:
    metric, x = torch.randn(2, 65, 16), torch.randn(2, 65, 8)
    size = torch.randint(1, 400, (2, 65)).float()  # bfloat16 holds up to 256 exactly
    match = bipartite_matching(metric, 30)
    expected = merge_tokens(x, size, match)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        cast = bipartite_matching(metric, 30)
        tokens, sizes = merge_tokens(x, size, cast)
    assert all(torch.equal(a, b) for a, b in zip(match, cast))
    assert torch.equal(sizes, expected[1]) and torch.equal(tokens, expected[0])


def merge_once(x: Tensor, metric: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """One merge from start to end."""
    match = bipartite_matching(metric, 5)
    tokens, size = merge_tokens(x, None, match)
    return tokens, size, follow_merges(tokens, [match], x.shape[1] - 1)


def test_compiles_into_one_graph() -> None:
    x, metric = torch.randn(2, 17, 4, requires_grad=True), torch.randn(2, 17, 6)
    compiled = torch.compile(merge_once, fullgraph=True, backend='aot_eager')
    expected, found = merge_once(x, metric), compiled(x, metric)
    for a, b in zip(expected, found):
        torch.testing.assert_close(a, b)
    grads = [
        torch.autograd.grad(out[0].square().sum(), x)[0] for out in (expected, found)
    ]
    torch.testing.assert_close(*grads)


def test_shapes_depend_on_no_data() -> None:
    # Fake tensors hold no numbers: reading one back (`item`, `nonzero`) would fail.
    with FakeTensorMode(allow_non_fake_inputs=False):
        x, metric = torch.randn(2, 17, 4), torch.randn(2, 17, 6)
        tokens, size, group = merge_once(x, metric)
    assert tokens.shape == (2, 12, 4) and size.shape == (2, 12)
    assert group.shape == (2, 16)


def test_block_merges_between_attention_and_mlp() -> None:
    block = MergingBlock(8, 2, layer_scale=1.0).double().eval()
    x, group = torch.randn(2, 9, 8).double(), identity_map(2, 9)
    found, size, matches = block(x, None, (), 3)
    groups = follow_merges(found, matches, 8)

    attended, keys = block.attn(block.norm1(x))
    keys = keys.mean(dim=1)
    x = x + attended
    for b in range(2):
        pairs = slow_matching(keys[b], 3)
        tokens, sizes, slow_group = slow_merge(
            x[b], torch.ones(9).double(), group[b], pairs
        )
        tokens = tokens + block.mlp(block.norm2(tokens))
        torch.testing.assert_close(found[b], tokens, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(size[b].double(), sizes)
        assert torch.equal(groups[b], slow_group)
    same = block(x, None, (), 0)
    assert same[1] is None and same[2] == () and same[0].shape == x.shape


def test_attention_hands_out_its_keys_by_head() -> None:
    block = MergingBlock(8, 2).eval()
    x = torch.randn(2, 5, 8)
    _, keys = block.attn(x)
    k = x @ block.attn.qkv.weight[8:16].T + block.attn.qkv.bias[8:16]
    torch.testing.assert_close(keys, torch.stack([k[..., :4], k[..., 4:]], dim=1))


def test_recovering_merged_tokens_keeps_the_total() -> None:
    x = torch.randn(2, 33, 4).double()
    match = bipartite_matching(torch.randn(2, 33, 4), 16)
    assert isinstance(match, Matching)
    tokens, _ = merge_tokens(x, None, match)
    group = follow_merges(tokens, [match], 32)
    back = recover_tokens(tokens, group)
    torch.testing.assert_close(back.sum(dim=1), x[:, 1:].sum(dim=1))


@pytest.mark.parametrize('dtype', [torch.float64, torch.float32])
def test_both_ways_of_adding_rows_are_the_slow_loop(dtype: torch.dtype) -> None:
    base = torch.randn(2, 4, 3, dtype=dtype, requires_grad=True)
    rows = torch.randn(2, 6, 3, dtype=dtype, requires_grad=True)
    target = torch.tensor([[0, 3, 3, 3, 1, 0], [2, 2, 2, 2, 2, 2]])
    expected = base.clone()
    for b in range(2):
        for i in range(6):
            expected[b, target[b, i]] += rows[b, i]
    weight = torch.randn_like(base)
    grads = torch.autograd.grad((expected**2 * weight).sum(), (base, rows))
    for add in (add_rows, add_rows_by_product):
        with torch.autocast('cpu', torch.bfloat16):
            found = add(base, target, rows)
        torch.testing.assert_close(found, expected)
        got = torch.autograd.grad((found**2 * weight).sum(), (base, rows))
        torch.testing.assert_close(got, grads)


def test_a_leader_that_joins_again_and_again_is_followed_to_the_end() -> None:
    """The longest chains of names that so many merges can make, and shorter ones."""
    for layers in range(1, 6):
        left, matches = 2**layers + 1, []
        while left > 2:  # each token of A joins the last of B
            side, other = (left - 1) // 2, left // 2
            target = torch.full((1, side), other - 1)
            merged = torch.arange(side).unsqueeze(0)
            matches.append(Matching(merged[:, :0], merged, target))
            left = 1 + other
        assert len(matches) == layers
        group = follow_merges(torch.zeros(1, left, 1), matches, 2**layers)
        assert group.tolist() == [[1] * 2**layers]


@pytest.mark.parametrize('merged_before', [False, True])
@pytest.mark.parametrize('train', [False, True])
def test_merging_starts_few_operators(merged_before: bool, train: bool) -> None:
    block, x = MergingBlock(16, 2), torch.randn(2, 17, 16)
    size = torch.randint(1, 5, (2, 17)).float() if merged_before else None

    def total(r: int) -> int:
        with torch.set_grad_enabled(train), count_operators() as found:
            block(x, size, (), r)
        return found.total()

    assert total(0) == 12 + merged_before  # the logarithm of the sizes
    assert total(5) - total(0) <= 16


def test_following_the_merges_starts_few_operators() -> None:
    x, matches = torch.randn(2, 65, 4), []
    for r in (20, 10, 5, 3):
        matches.append(bipartite_matching(torch.randn(2, x.shape[1], 3), r))
        x, _ = merge_tokens(x, None, matches[-1])
    with count_operators() as found:
        follow_merges(x, matches, 64)
    assert found.total() <= 4 * len(matches) + 9


@pytest.mark.gpu
def test_a_gpu_merges_as_a_cpu_does() -> None:
    """The same pairs, means and gradients; and the same bits in each run."""
    found: dict[str, list[Tensor]] = {}
    tokens, weight = torch.randn(2, 4, 65, 48).unbind()
    for device in ('cpu', 'cuda', 'cuda'):
        x = tokens.detach().to(device).requires_grad_()
        y, size, matches = x, None, []
        for r in (16, 12, 8):  # groups of merged tokens merge again
            match = bipartite_matching(y[..., :16].detach(), r)
            y, size = merge_tokens(y, size, match)
            matches.append(match)
        group = follow_merges(y, matches, 64)
        (y * weight.to(device)[:, : y.shape[1]]).sum().backward()
        result = [group, size, y.detach(), x.grad]
        if device in found:
            assert all(torch.equal(a, b) for a, b in zip(result, found[device]))
        found[device] = result
    for one, other in zip(found['cpu'], found['cuda'], strict=True):
        torch.testing.assert_close(other.cpu(), one, rtol=1e-5, atol=1e-5)
