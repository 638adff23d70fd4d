"""Recovery of L positions from K codes, by the true map and by the learned one."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from mergevq_mm.models.necks import GroupMapRecovery, SourceRecovery
from mergevq_mm.models.utils.group_map import source_matrix


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
def test_prediction_is_equivariant_to_the_order_of_the_codes() -> None:
    neck = learned()
    codes, group = signs(2, 5, 6), torch.randint(5, (2, 12))
    order = torch.randperm(5)
    out = neck(codes, group, (3, 4))
    permuted = neck(codes[:, order], order.argsort()[group], (3, 4))
    torch.testing.assert_close(permuted.logits, out.logits[:, :, order])
    assert torch.equal(permuted.tokens, out.tokens)
    predicted = neck(codes, None, (3, 4)), neck(codes[:, order], None, (3, 4))
    assert torch.equal(predicted[0].tokens, predicted[1].tokens)


@torch.no_grad()
def test_true_map_is_used_where_it_is_given_and_else_the_prediction() -> None:
    neck = learned()
    codes, group = signs(2, 5, 6), torch.randint(5, (2, 12))
    given, predicted = neck(codes, group, (3, 4)), neck(codes, None, (3, 4))
    assert torch.equal(given.logits, predicted.logits)
    assert given.logits.shape == (2, 12, 5)
    for b in range(2):
        for position in range(12):
            k = int(given.logits[b, position].argmax())
            assert torch.equal(predicted.tokens[b, position], codes[b, k])
            true = int(group[b, position])
            assert torch.equal(given.tokens[b, position], codes[b, true])


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
    neck = learned()
    codes = signs(1, 5, 6)
    memory = neck.embed(codes)
    query = neck.query.flatten(2).transpose(1, 2)
    refined = neck.layers(query, memory)
    keys = neck.key(memory)
    expected = [
        [float(refined[0, p] @ keys[0, k]) / 16**0.5 for k in range(5)]
        for p in range(12)
    ]
    found = neck(codes, None, (3, 4)).logits[0]
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


def test_identical_codes_get_identical_scores() -> None:
    codes = signs(1, 5, 6)
    codes[0, 3] = codes[0, 1]
    logits = learned()(codes, None, (3, 4)).logits
    torch.testing.assert_close(logits[..., 3], logits[..., 1])


def test_cross_entropy_reaches_every_parameter_and_the_codes() -> None:
    neck = learned().train()
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


def test_layers_do_not_start_as_copies_of_each_other() -> None:
    first, second = learned().layers.layers
    for name, parameter in first.named_parameters():
        if parameter.dim() > 1:
            assert not torch.equal(parameter, second.get_parameter(name)), name


def test_size_of_the_default() -> None:
    with torch.device('meta'):
        neck = SourceRecovery()
    # Two standard decoder layers of width 384: self- and cross-attention, MLP, three
    # norms each, and the norm after them (spec section 7: about 4.8 M).
    layer = 8 * (384**2 + 384) + 2 * 384 * 1536 + 1536 + 384 + 6 * 384
    layers = sum(p.numel() for p in neck.layers.parameters())
    assert layers == 2 * layer + 2 * 384
