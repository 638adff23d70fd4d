"""The look-up-free quantizer against the dense formulas and an independent library."""

from __future__ import annotations

import math

import golden
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from mergevq_mm.models.quantizers import LFQ
from mergevq_mm.models.quantizers import lfq_functional as functional

TAU = 0.01


def codebook(bits: int) -> Tensor:
    """All codes in the order of their indices, 2^d×d, by a Python loop."""
    rows = [[1.0 if i >> j & 1 else -1.0 for j in range(bits)] for i in range(2**bits)]
    return torch.tensor(rows, dtype=torch.float64)


def dense_probabilities(z: Tensor, tau: float) -> Tensor:
    """The authors' softmax over all codes, n×2^d."""
    return (2 * z @ codebook(z.shape[1]).T / tau).softmax(dim=1)


def dense_entropy(p: Tensor) -> Tensor:
    return -torch.xlogy(p, p).sum(dim=-1)


def make(bits: int, **kwargs: object) -> LFQ:
    half = bits // 2
    return LFQ(bits, split=kwargs.pop('split', (half, bits - half)), **kwargs)


# ------------------------------------------------------------------------ entropies


@pytest.mark.parametrize('bits', [4, 5, 7, 10])
@pytest.mark.parametrize('tau', [1.0, 0.1, TAU])
def test_entropies_and_gradients_are_the_dense_ones(bits: int, tau: float) -> None:
    scale = {1.0: 1.0, 0.1: 0.1, TAU: 0.02}[tau]
    z = (scale * torch.randn(30, bits, dtype=torch.float64)).requires_grad_()
    p = dense_probabilities(z, tau)
    dense = dense_entropy(p).mean(), dense_entropy(p.mean(dim=0))
    mean = functional.mean_code_distribution(z, tau)
    ours = functional.sample_entropy(z, tau), functional.entropy(mean)

    assert mean.shape == (2 ** (bits // 2), 2 ** (bits - bits // 2))
    # Row a, column b is the code of index a + 2^(d // 2) b.
    torch.testing.assert_close(mean.T.flatten(), p.mean(dim=0), rtol=1e-9, atol=1e-14)
    for a, b in zip(ours, dense):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)
        grads = [torch.autograd.grad(v, z, retain_graph=True)[0] for v in (a, b)]
        torch.testing.assert_close(*grads, rtol=1e-7, atol=1e-12)


@pytest.mark.parametrize('tau', [1.0, TAU])
def test_sample_entropy_is_exact_also_far_from_zero(tau: float) -> None:
    """The sum of the binary entropies of σ(4 z / τ), to 1e-12, with both signs."""
    logits = torch.linspace(-60, 60, 1201, dtype=torch.float64)
    small = (-logits.abs()).exp()  # h₂ in a form that loses nothing
    p = small / (1 + small)
    exact = -torch.xlogy(p, p) + small.log1p() * (1 - p)
    found = functional.sample_entropy((logits * tau / 4)[:, None], tau)
    assert abs(found - exact.mean()) < 1e-12
    for i in (0, 300, 350, 600, 850, 900, 1200):
        alone = functional.sample_entropy((logits[i : i + 1] * tau / 4)[:, None], tau)
        assert abs(alone - exact[i]) < 1e-12


def test_extremes_of_the_entropies() -> None:
    one = torch.full((50, 10), 0.5)  # all tokens surely the same code
    assert functional.sample_entropy(one, TAU) < 1e-6
    assert functional.entropy(functional.mean_code_distribution(one, TAU)) < 1e-3
    every = codebook(10).float()  # each code once: the maximum, d ln 2
    mean = functional.mean_code_distribution(every, TAU)
    assert functional.entropy(mean).item() == pytest.approx(10 * math.log(2), abs=1e-3)
    zero = functional.mean_code_distribution(torch.zeros(3, 10), TAU)  # nothing known
    assert functional.entropy(zero).item() == pytest.approx(10 * math.log(2), abs=1e-4)
    assert functional.sample_entropy(torch.zeros(3, 10), TAU).item() == pytest.approx(
        10 * math.log(2)
    )


@pytest.mark.parametrize('scale', [0.0, 1.0, 30.0, 1e3, 1e4, 6e4, 1e6, 1e10])
def test_mean_distribution_sums_to_one_for_any_finite_z(scale: float) -> None:
    z = scale * torch.randn(64, 18)
    mean = functional.mean_code_distribution(z, TAU)
    assert mean.sum().item() == pytest.approx(1, abs=1e-3)
    if scale >= 1e3:  # 64 tokens, each surely of a code of its own
        entropy = functional.entropy(mean).item()
        assert entropy == pytest.approx(math.log(64), abs=1e-2)


def test_eps_is_added_inside_the_logarithm() -> None:
    p = torch.tensor([0.5, 0.25, 0.25, 0.0])
    expected = -(p * (p + 1e-5).log()).sum()
    torch.testing.assert_close(functional.entropy(p, 1e-5), expected)
    assert functional.entropy(p).item() == pytest.approx(1.5 * math.log(2))


def test_half_codebooks_make_no_denormal_numbers() -> None:
    mean = functional.mean_code_distribution(torch.randn(32, 18), TAU)
    assert (mean >= torch.finfo(torch.float32).tiny).all()


# ------------------------------------------------------- an independent implementation


@pytest.mark.parametrize('bits', [4, 6])
def test_losses_are_vector_quantize_pytorchs(bits: int) -> None:
    library = pytest.importorskip('vector_quantize_pytorch')
    theirs = library.LFQ(
        dim=bits,
        codebook_size=2**bits,
        entropy_loss_weight=0.1,
        commitment_loss_weight=0.25,
        diversity_gamma=1.0,
    ).train()
    # Small values, because they take the logarithm of at least 1e-5.
    z = (0.004 * torch.randn(2, 20, bits)).requires_grad_()
    # Their softmax is of 2 z·c times the inverse temperature, as ours of 2 z·c / τ.
    result, breakdown = theirs(z, inv_temperature=1 / TAU, return_loss_breakdown=True)
    quantizer = make(bits, temperature=TAU).train()
    ours = quantizer(z)
    losses = ours.losses
    torch.testing.assert_close(ours.codes, result.quantized)
    # Theirs counts the first bit as the most significant one.
    place = 2 ** torch.arange(bits)
    flipped = (
        (result.indices[..., None] >> torch.arange(bits - 1, -1, -1)) & 1
    ) * place
    assert torch.equal(ours.index, flipped.sum(dim=-1))
    to_nats = math.log(2)
    for name, other in (
        ('token_entropy', breakdown.per_sample_entropy),
        ('batch_entropy', breakdown.batch_entropy),
    ):
        torch.testing.assert_close(losses[name] * to_nats, other, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(losses['loss_commit'], 0.25 * breakdown.commitment)
    total = losses['loss_entropy'] + losses['loss_commit']
    torch.testing.assert_close(total, result.entropy_aux_loss, rtol=1e-3, atol=1e-5)
    grads = [torch.autograd.grad(v, z)[0] for v in (total, result.entropy_aux_loss)]
    torch.testing.assert_close(*grads, rtol=1e-3, atol=1e-5)


def test_losses_of_the_golden_file() -> None:
    numbers = golden.load('hybrid_tiny.npz')
    z = torch.from_numpy(numbers['K25.z']) * 0.3
    quantizer = make(10, eps=1e-5).train()
    losses = quantizer(z).losses
    theirs = {k[4:]: float(v) for k, v in numbers.items() if v.shape == ()}
    near = {'rel': 1e-4, 'abs': 5e-5}
    to_nats = math.log(2)
    for name, value in (
        (losses['token_entropy'] * to_nats, theirs['sample_entropy']),
        (losses['batch_entropy'] * to_nats, theirs['batch_entropy']),
        (losses['loss_entropy'] / 0.1, theirs['entropy_loss']),
        (losses['loss_commit'] / 0.25, theirs['commitment']),
    ):
        assert name.item() == pytest.approx(value, **near)


# -------------------------------------------------------------------- codes, indices


def test_indices_and_codes_are_a_bijection_over_the_codebook() -> None:
    quantizer = LFQ()
    assert quantizer.codebook_size == 2**18
    index = torch.arange(2**18)
    codes = quantizer.index_to_codes(index)
    assert codes.shape == (2**18, 18) and (codes.abs() == 1).all()
    assert torch.equal(quantizer.codes_to_index(codes), index)
    assert codes[1].tolist() == [1.0] + [-1.0] * 17  # bit 0 is the least significant
    assert codes[2**17].tolist() == [-1.0] * 17 + [1.0]
    pre, post = quantizer.split_index(index)
    assert torch.equal(pre + 64 * post, index)  # [6, 12]
    assert (pre.min(), pre.max(), post.min(), post.max()) == (0, 63, 0, 4095)
    assert torch.equal(quantizer.join_index((pre, post)), index)
    assert len(torch.unique(pre * 4096 + post)) == 2**18


def test_other_splits() -> None:
    quantizer = LFQ(9, split=(2, 3, 4))
    index = torch.arange(512).view(8, 64)
    parts = quantizer.split_index(index)
    assert [int(part.max()) for part in parts] == [3, 7, 15]
    assert torch.equal(parts[0] + 4 * parts[1] + 32 * parts[2], index)
    assert torch.equal(quantizer.join_index(parts), index)


@pytest.mark.parametrize('scale', [1e-30, 1.0, 1e4, 1e8, 1e30])
def test_codes_are_signs_and_fit_the_index_at_any_scale(scale: float) -> None:
    quantizer = LFQ().eval()
    z = scale * torch.randn(2, 50, 18)
    codes, index, losses = quantizer(z)
    assert losses == {}
    assert torch.equal(codes, torch.where(z > 0, 1.0, -1.0))
    expected = sum((z[..., j] > 0).long() << j for j in range(18))
    assert torch.equal(index, expected)
    assert torch.equal(quantizer.index_to_codes(index), codes)


def test_zero_is_minus_one() -> None:
    codes, index, _ = LFQ().eval()(torch.zeros(1, 1, 18))
    assert (codes == -1).all() and index.item() == 0


def test_gradient_passes_straight_through() -> None:
    z = torch.randn(2, 5, 18, requires_grad=True)
    upstream = torch.randn(2, 5, 18)
    codes = LFQ().eval()(z).codes
    assert torch.equal(torch.autograd.grad(codes, z, upstream)[0], upstream)


# -------------------------------------------------------------------------- training


@pytest.mark.parametrize('bits', [4, 9])
def test_loss_terms_and_their_weights(bits: int) -> None:
    z = (0.02 * torch.randn(3, 11, bits)).requires_grad_()
    quantizer = make(
        bits, entropy_weight=0.3, batch_entropy_weight=0.7, commitment_weight=2.0
    ).train()
    losses = quantizer(z).losses
    assert set(losses) == {
        'loss_entropy',
        'loss_commit',
        'token_entropy',
        'batch_entropy',
    }
    p = dense_probabilities(z.double().flatten(0, 1), TAU)
    token, batch = dense_entropy(p).mean(), dense_entropy(p.mean(dim=0))
    expected = 0.3 * (token - 0.7 * batch)
    torch.testing.assert_close(
        losses['loss_entropy'].double(), expected, rtol=1e-4, atol=1e-5
    )
    signs = torch.where(z > 0, 1.0, -1.0)
    torch.testing.assert_close(losses['loss_commit'], 2 * ((z - signs) ** 2).mean())
    grad = torch.autograd.grad(losses['loss_commit'], z, retain_graph=True)[0]
    torch.testing.assert_close(grad, 4 * (z - signs) / z.numel())  # code is constant
    assert not losses['token_entropy'].requires_grad  # diagnostics, in bits
    assert losses['batch_entropy'].item() == pytest.approx(
        batch.item() / math.log(2), rel=1e-4
    )


def test_a_batch_entropy_without_weight_has_no_backward_pass() -> None:
    z = (0.02 * torch.randn(3, 11, 9)).requires_grad_()
    found = []
    for weight in (0.0, 1e-12):
        losses = make(9, batch_entropy_weight=weight).train()(z).losses
        (grad,) = torch.autograd.grad(losses['loss_entropy'], z)
        found.append((losses['batch_entropy'], grad))
    torch.testing.assert_close(found[0], found[1])
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(saved.append, lambda x: x):
        make(9, batch_entropy_weight=0.0).train()(z)
    without = len(saved)
    with torch.autograd.graph.saved_tensors_hooks(saved.append, lambda x: x):
        make(9, batch_entropy_weight=1.0).train()(z)
    assert len(saved) > 2 * without


def test_losses_come_in_training_or_when_asked_for() -> None:
    quantizer, z = LFQ(), torch.randn(1, 4, 18)
    assert quantizer.train()(z).losses and not quantizer.eval()(z).losses
    assert quantizer(z, with_losses=True).losses
    assert not quantizer.train()(z, with_losses=False).losses


@pytest.mark.parametrize(
    'z',
    [
        torch.zeros(2, 8, 18),
        torch.full((2, 8, 18), 1e-30),
        torch.randn(2, 8, 18) * 100,
        torch.randn(2, 8, 18) * 6e4,
        torch.randn(2, 8, 18) * 1e8,
    ],
    ids=['zero', 'tiny', 'large', 'largest half', 'huge'],
)
def test_first_steps_are_finite(z: Tensor) -> None:
    z = z.clone().requires_grad_()
    out = LFQ().train()(z)
    assert all(value.isfinite() for value in out.losses.values())
    (out.losses['loss_entropy'] + out.codes.sum()).backward()
    assert z.grad.isfinite().all()
    # -log(2^18) < H(token) - H(batch) < log(2^18), whatever the tokens
    assert abs(out.losses['loss_entropy']) <= 0.1 * 18 * math.log(2) + 1e-4


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_losses_stay_in_float32_under_autocast(dtype: torch.dtype) -> None:
    quantizer = LFQ().train()
    z = 3 * torch.randn(2, 30, 18)
    expected = quantizer(z)
    with torch.autocast('cpu', dtype=dtype):
        found = quantizer(z)
    assert found.codes.dtype == torch.float32 and torch.equal(
        found.codes, expected.codes
    )
    for name, value in expected.losses.items():
        assert found.losses[name].dtype == torch.float32
        assert torch.equal(found.losses[name], value)
    half = quantizer(z.to(dtype))
    assert half.losses['loss_entropy'].dtype == torch.float32


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
@pytest.mark.parametrize('in_channels', [None, 16])
def test_half_models(dtype: torch.dtype, in_channels: int | None) -> None:
    lfq = LFQ(6, in_channels, split=(2, 4), norm_groups=4).to(dtype)
    tokens = torch.randn(2, 5, in_channels or 6).to(dtype)
    result = lfq(tokens, with_losses=True)
    assert result.codes.dtype == dtype and set(result.codes.unique().tolist()) == {
        -1,
        1,
    }
    z = lfq.projection(tokens).float()
    assert torch.equal(result.index, functional.codes_to_index(z))
    for name, value in lfq.losses(z).items():
        assert value.dtype == torch.float32 and torch.equal(result.losses[name], value)
    if in_channels:
        sum(result.losses.values()).backward()
        assert lfq.projection.linear.weight.grad.isfinite().all()
    with torch.autocast('cpu', torch.bfloat16):  # weights in float32: so are the codes
        assert LFQ(6, 16, (2, 4), norm_groups=4)(torch.randn(2, 5, 16)).codes.dtype == (
            torch.float32
        )


@pytest.mark.parametrize(
    ('index', 'text'),
    [
        ([0, 64], r'indices in \[0, 64\] of torch.int64 are not those of 64 codes'),
        ([-1, 3], r'give whole numbers from 0 to 63'),
        ([0.0, 1.0], 'of torch.float32 are not'),
    ],
)
def test_indices_out_of_range_do_not_wrap(index: list, text: str) -> None:
    lfq = LFQ(6, split=(2, 4))
    with pytest.raises(ValueError, match=text):
        lfq.index_to_codes(torch.tensor(index))
    assert lfq.index_to_codes(torch.empty(0, 3, dtype=torch.int64)).shape == (0, 3, 6)
    assert lfq.index_to_codes(torch.empty(2, device='meta', dtype=torch.long)).is_meta


def test_descending_the_entropy_loss_uses_more_codes() -> None:
    quantizer = make(6, temperature=1.0).train()
    z = (0.3 + 0.1 * torch.randn(1, 64, 6)).requires_grad_()  # all one code
    assert len(quantizer(z).index.unique()) < 5
    optimizer = torch.optim.Adam([z], lr=0.05)
    for _ in range(60):
        optimizer.zero_grad()
        quantizer(z).losses['loss_entropy'].backward()
        optimizer.step()
    assert len(quantizer(z).index.unique()) > 25


def test_projection_is_the_authors_over_the_folded_map() -> None:
    quantizer = LFQ(18, in_channels=64).eval()
    norm, linear = quantizer.projection.norm, quantizer.projection.linear
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    tokens = torch.randn(2, 16, 64)
    fake_map = tokens.transpose(1, 2).unflatten(2, (4, 4))
    hidden = F.silu(F.group_norm(fake_map, 32, norm.weight, norm.bias, 1e-6))
    z = F.conv2d(hidden, linear.weight[..., None, None], linear.bias)
    torch.testing.assert_close(
        quantizer.projection(tokens), z.flatten(2).transpose(1, 2), rtol=1e-4, atol=1e-5
    )
    order = torch.randperm(16)  # and it mixes no positions but by the norm
    torch.testing.assert_close(
        quantizer.projection(tokens[:, order]),
        quantizer.projection(tokens)[:, order],
        rtol=1e-4,
        atol=1e-5,
    )
    assert quantizer(torch.randn(2, 7, 64)).codes.shape == (2, 7, 18)  # any K


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ({'split': (6, 11)}, r'split=\[6, 11\] does not split 18 bits'),
        ({'split': (0, 18)}, r'split=\[0, 18\]'),
        ({'split': ()}, r'split=\[\]'),
        ({'bits': 10}, r'split=\[6, 12\] does not split 10 bits'),
        ({'bits': 0, 'split': ()}, 'bits=0 lies outside'),
        ({'bits': 30, 'split': (15, 15)}, 'bits=30 lies outside'),
        ({'temperature': 0.0}, 'temperature=0.0 must be greater'),
        ({'temperature': -1.0}, 'temperature=-1.0'),
    ],
)
def test_bad_arguments(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LFQ(**arguments)


def test_tokens_of_another_width_are_refused() -> None:
    with pytest.raises(ValueError, match='tokens of width 20 do not fit bits=18'):
        LFQ()(torch.randn(1, 4, 20))
