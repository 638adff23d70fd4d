"""Recovery of L positions from K codes, by the true map and by the learned one."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from mergevq_mm.models.necks import GroupMapRecovery, SourceRecovery
from mergevq_mm.models.utils.group_map import (
    first_occurrence,
    recover_tokens,
    source_matrix,
)
from mergevq_mm.models.utils.possible_maps import best_possible_map


def learned(**kwargs: object) -> SourceRecovery:
    arguments = {
        'bits': 6,
        'grid': (3, 4),
        'embed_dims': 16,
        'num_heads': 2,
        'feedforward_channels': 32,
        **kwargs,
    }
    return SourceRecovery(**arguments).eval()


def signs(*shape: int) -> Tensor:
    return torch.randint(2, shape) * 2.0 - 1


def test_true_map_is_the_product_with_the_source_matrix() -> None:
    codes, group = signs(2, 5, 6), torch.randint(5, (2, 12))
    out = GroupMapRecovery()(codes, group, (3, 4))
    assert out.logits is None and not GroupMapRecovery.learned
    assert torch.equal(out.tokens, source_matrix(group, 5).transpose(1, 2) @ codes)
    assert not list(GroupMapRecovery().parameters())


def test_true_map_is_needed_where_nothing_predicts_it() -> None:
    with pytest.raises(ValueError, match='group=None'):
        GroupMapRecovery()(signs(1, 5, 6), None, (3, 4))


@torch.no_grad()
def test_true_map_is_used_where_it_is_given_and_else_the_best_possible() -> None:
    neck = learned()
    codes, group = signs(2, 5, 6), torch.randint(5, (2, 12))
    given, predicted = neck(codes, group, (3, 4)), neck(codes, None, (3, 4))
    assert torch.equal(given.logits, predicted.logits)
    assert given.logits.shape == (2, 12, 5)
    best = best_possible_map(given.logits)
    for b in range(2):
        for position in range(12):
            k, true = int(best[b, position]), int(group[b, position])
            assert torch.equal(predicted.tokens[b, position], codes[b, k])
            assert torch.equal(given.tokens[b, position], codes[b, true])


@torch.no_grad()
def test_as_many_codes_as_positions_stay_where_they_are() -> None:
    codes = signs(2, 12, 6)
    assert torch.equal(learned()(codes, None, (3, 4)).tokens, codes)
    with pytest.raises(ValueError, match='K <= L'):
        learned()(signs(2, 13, 6), None, (3, 4))


@torch.no_grad()
def test_the_rank_of_a_code_is_seen() -> None:
    """Codes in another order, and equal codes, get other scores."""
    neck, codes = learned(), signs(1, 5, 6)
    order = torch.tensor([1, 0, 2, 3, 4])
    scores = neck.scores(codes, (3, 4))
    assert not torch.allclose(neck.scores(codes[:, order], (3, 4)), scores[..., order])
    codes[0, 3] = codes[0, 1]
    scores = neck.scores(codes, (3, 4))
    assert not torch.allclose(scores[..., 3], scores[..., 1])


@torch.no_grad()
def test_the_number_of_codes_is_seen() -> None:
    """The same codes, each given twice, are another question."""
    neck, codes = learned(), signs(1, 4, 6)
    once = neck.scores(codes, (3, 4))
    twice = neck.scores(codes.repeat_interleave(2, 1), (3, 4))
    assert not torch.allclose(once.softmax(2)[..., 0], twice.softmax(2)[..., :2].sum(2))


@torch.no_grad()
@pytest.mark.parametrize('code_layers', [0, 1])
def test_order_is_a_linear_layer_of_sines(code_layers: int) -> None:
    """Against a slow loop over ranks and places, for codes and queries."""
    neck, codes = learned(code_layers=code_layers), signs(1, 5, 6)

    def order(rank: float, place: float) -> Tensor:
        sines = [
            turn(value / 10000 ** (i / 8))
            for value in (rank, place)
            for turn in (math.sin, math.cos)
            for i in range(8)
        ]
        return neck.order.weight @ torch.tensor(sines)

    seen: list[Tensor] = []
    neck.layers.register_forward_pre_hook(lambda module, args: seen.extend(args))
    neck.scores(codes, (3, 4))
    query, memory = seen
    expected = neck.embed(codes)
    expected = expected + torch.stack([order(k, k * 12 / 5) for k in range(5)])
    for layer in neck.code_layers:
        expected = layer(expected)
    torch.testing.assert_close(memory, expected, rtol=1e-4, atol=1e-5)
    places = torch.stack([order(place, place) for place in range(12)])
    learnt = neck.query.flatten(2).transpose(1, 2)
    torch.testing.assert_close(query, learnt + places, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(('grid', 'keep'), [((3, 4), 12), ((5, 2), 3), ((1, 1), 1)])
@torch.no_grad()
def test_other_grids_and_numbers(grid: tuple[int, int], keep: int) -> None:
    neck = learned()
    length = grid[0] * grid[1]
    out = neck(signs(2, keep, 6), torch.randint(keep, (2, length)), grid)
    assert out.tokens.shape == (2, length, 6) and out.logits.shape == (2, length, keep)
    assert out.logits.isfinite().all()


@torch.no_grad()
def test_queries_of_another_grid_are_interpolated() -> None:
    small, large = learned(grid=(3, 4)), learned(grid=(6, 8))
    state = small.state_dict()
    state['query'] = F.interpolate(small.query, (6, 8), mode='bicubic')
    large.load_state_dict(state)
    codes = signs(2, 5, 6)
    torch.testing.assert_close(small.scores(codes, (6, 8)), large.scores(codes, (6, 8)))
    # Rows and columns are not swapped: 2x6 is not 6x2 read in another order.
    assert not torch.allclose(small.scores(codes, (2, 6)), small.scores(codes, (6, 2)))


@torch.no_grad()
def test_logits_are_scaled_products_of_queries_and_keys() -> None:
    neck, seen = learned(), []
    for part in (neck.layers, neck.key):
        part.register_forward_hook(lambda module, args, out: seen.append(out))
    found = neck(signs(1, 5, 6), None, (3, 4)).logits[0]
    refined, keys = seen
    expected = [
        [float(refined[0, p] @ keys[0, k]) / 16**0.5 for k in range(5)]
        for p in range(12)
    ]
    torch.testing.assert_close(found, torch.tensor(expected))


@torch.no_grad()
@pytest.mark.parametrize('half', [False, True])
def test_scores_are_float32_whatever_the_networks_compute_in(half: bool) -> None:
    """In bfloat16 close scores are equal, and the first of them would win."""
    neck, codes, seen = learned(), signs(2, 5, 6), []
    for part in (neck.layers, neck.key):
        part.register_forward_hook(lambda module, args, out: seen.append(out))
    if half:
        neck, codes = neck.bfloat16(), codes.bfloat16()
    with torch.autocast('cpu', torch.bfloat16, enabled=not half):
        logits = neck.scores(codes, (3, 4))
    refined, keys = (x.double() for x in seen)
    assert seen[1].dtype == torch.bfloat16 and logits.dtype == torch.float32
    expected = refined @ keys.transpose(1, 2) / 4
    torch.testing.assert_close(logits.double(), expected, rtol=1e-5, atol=1e-6)


def test_cross_entropy_reaches_every_parameter_and_the_codes() -> None:
    neck = learned(code_layers=1).train()
    codes, group = signs(2, 5, 6).requires_grad_(), torch.randint(5, (2, 12))
    logits = neck(codes, group, (3, 4)).logits
    F.cross_entropy(logits.flatten(0, 1), group.flatten()).backward()
    assert all(p.grad is not None for p in neck.parameters())
    assert codes.grad.abs().sum() > 0


def test_detach_stops_the_gradient_of_the_prediction_alone() -> None:
    codes, group = signs(2, 5, 6).requires_grad_(), torch.randint(5, (2, 12))
    out = learned(detach=True)(codes, group, (3, 4))
    assert torch.autograd.grad(out.tokens.sum(), codes, retain_graph=True)[0].any()
    grads = torch.autograd.grad(out.logits.sum(), codes, allow_unused=True)
    assert grads[0] is None


@pytest.mark.parametrize('kind', ['layers.layers', 'code_layers'])
def test_layers_do_not_start_as_copies_of_each_other(kind: str) -> None:
    first, second = learned(code_layers=2).get_submodule(kind)
    for name, parameter in first.named_parameters():
        if parameter.dim() > 1:
            assert not torch.equal(parameter, second.get_parameter(name)), name


def test_size_of_the_default() -> None:
    with torch.device('meta'):
        neck = SourceRecovery()
    assert neck.order.weight.numel() == 2 * 384**2 and not neck.code_layers
    # Two standard decoder layers of width 384: self- and cross-attention, MLP, three
    # norms each, and the norm after them (spec section 7: about 4.8 M).
    layer = 8 * (384**2 + 384) + 2 * 384 * 1536 + 1536 + 384 + 6 * 384
    layers = sum(p.numel() for p in neck.layers.parameters())
    assert layers == 2 * layer + 2 * 384


def test_sizes_that_no_neck_has_are_refused() -> None:
    for sizes, message in (
        (dict(embed_dims=15, num_heads=3), 'embed_dims=15 .* even'),
        (dict(code_layers=-1), 'code_layers=-1 of SourceRecovery is negative'),
        (dict(num_classes=-1), 'num_classes=-1 .* give 0 for none'),
    ):
        with pytest.raises(ValueError, match=message):
            learned(**sizes)


# ------------------------------------------------------- classes and first places


def told(**kwargs: object) -> SourceRecovery:
    return learned(num_classes=3, first_places=True, **kwargs)


@torch.no_grad()
def test_a_class_is_seen_where_it_is_known() -> None:
    neck, codes = told(), signs(2, 5, 6)
    plain = neck.scores(codes, (3, 4))
    assert torch.equal(neck.scores(codes, (3, 4), torch.tensor([3, 3])), plain)
    scores = neck.scores(codes, (3, 4), torch.tensor([3, 1]))
    torch.testing.assert_close(scores[0], plain[0])
    assert not torch.allclose(scores[1], plain[1])


@torch.no_grad()
def test_first_places_are_seen_where_they_are_known() -> None:
    neck, codes = told(), signs(2, 5, 6)
    plain = neck.scores(codes, (3, 4))
    first = torch.tensor([[-1, -1, -1, -1, -1], [0, 1, 4, 6, 11]])
    scores = neck.scores(codes, (3, 4), first=first)
    torch.testing.assert_close(scores[0], plain[0])
    assert not torch.allclose(scores[1], plain[1])


@torch.no_grad()
@pytest.mark.parametrize('make', [learned, told])
def test_the_map_has_the_first_places_that_are_given(make: object) -> None:
    first = torch.tensor([[0, 1, 4, 6, 11], [0, 8, 9, 10, 11]])
    neck, codes = make(), signs(2, 5, 6)
    made = neck(codes, None, (3, 4), first=first)
    scores = neck.scores(codes, (3, 4), first=first)
    assert torch.equal(made.logits, scores)
    best = best_possible_map(scores, first)
    assert torch.equal(first_occurrence(best, 5), first)
    assert torch.equal(made.tokens, recover_tokens(codes, best))
    with pytest.raises(ValueError, match='not the first places'):
        neck(codes, None, (3, 4), first=first.flip(1))


@pytest.mark.parametrize(
    ('make', 'labels', 'message'),
    [
        ('learned', [0, 1], 'num_classes=0 nothing; leave them out'),
        ('told', [0], r'shape \(1,\) do not go with the codes of 2 images'),
        ('told', [0, 4], r'labels in \[0, 4\] .*num_classes=3; give 0 to 2, or 3 for'),
        ('told', [-1, 0], r'labels in \[-1, 0\]'),
    ],
)
def test_classes_that_it_does_not_know_are_refused(
    make: str, labels: list[int], message: str
) -> None:
    neck = globals()[make]()
    for group in (None, (torch.arange(12) % 5).expand(2, -1)):
        with pytest.raises(ValueError, match=message):
            neck(signs(2, 5, 6), group, (3, 4), torch.tensor(labels))


@torch.no_grad()
def test_it_compiles_in_one_piece_whatever_it_is_told() -> None:
    neck, codes = told(code_layers=1), signs(2, 5, 6)
    first = torch.tensor([[0, 1, 4, 6, 11], [0, 8, 9, 10, 11]])
    for given in ({}, dict(labels=torch.tensor([0, 3]), first=first)):
        made = neck(codes, None, (3, 4), **given)
        compiled = torch.compile(neck, fullgraph=True, backend='eager')
        again = compiled(codes, None, (3, 4), **given)
        assert torch.equal(made.tokens, again.tokens)


def test_training_tells_them_of_half_of_the_samples() -> None:
    neck, number = told().train(), 400
    codes, group = signs(1, 5, 6).expand(number, -1, -1), torch.arange(12) % 5
    seen: list[tuple] = []
    plain = neck.scores
    neck.scores = lambda *args: seen.append(args) or plain(*args)
    group, labels = group.expand(number, -1), torch.ones(number, dtype=torch.int64)
    neck(codes, group, (3, 4), labels)
    neck.eval()(codes, group, (3, 4), labels)
    (_, _, some, first), (_, _, all_of_them, none) = seen
    known, placed = some == 1, first[:, 0] == 0
    assert torch.equal(some[~known], torch.full_like(some[~known], 3))
    assert torch.equal(first[placed], torch.arange(5).expand(int(placed.sum()), -1))
    assert (first[~placed] == -1).all()
    for a in (known, placed, known == placed):  # each by itself
        assert 140 < int(a.sum()) < 260
    # The true map must not tell an evaluation anything.
    assert torch.equal(all_of_them, labels) and none is None


def test_every_parameter_learns_where_all_is_told() -> None:
    neck = told(code_layers=1).train()
    group = (torch.arange(12) % 5).expand(16, -1)
    logits = neck(signs(16, 5, 6), group, (3, 4), torch.arange(16) % 3).logits
    F.cross_entropy(logits.flatten(0, 1), group.flatten()).backward()
    assert all(p.grad is not None and p.grad.any() for p in neck.parameters())
