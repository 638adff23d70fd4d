"""Drawing values: slow references, frequencies, guidance, seeds, bad options."""

from __future__ import annotations

import numpy as np
import pytest
import tiny_mergear as tiny
import torch
from scipy import stats
from torch.testing import assert_close

from mergevq_mm.models.generators import MergeAR, RandAR
from mergevq_mm.models.generators.code_drawing import SamplingRule
from mergevq_mm.models.generators.sampling import (
    check_sampling,
    draw,
    filter_logits,
    guidance_scale,
    guide,
    sample_seeds,
    uniform_noise,
)

# ----------------------------------------------------------------------------- filters


def slow_filter(
    row: np.ndarray, temperature: float, top_k: int, top_p: float
) -> set[int]:
    """Values that are left of one row of logits."""
    row = row.astype(np.float64) / temperature
    ranked = list(np.argsort(-row))
    left = ranked[:top_k] if top_k else ranked
    chance = np.exp(row[left] - row[left].max())
    chance = chance / chance.sum()
    total, kept = 0.0, set()
    for value, c in zip(left, chance, strict=True):
        if total >= top_p:
            break
        kept.add(int(value))
        total += c
    return kept


@pytest.mark.parametrize('temperature', [0.5, 1.0, 3.0])
@pytest.mark.parametrize('top_k', [0, 1, 5, 40])
@pytest.mark.parametrize('top_p', [1e-6, 0.3, 0.9, 1.0])
def test_filters_against_a_slow_loop(
    temperature: float, top_k: int, top_p: float
) -> None:
    logits = torch.randn(3, 4, 20) * 2
    out = filter_logits(logits, temperature, top_k, top_p)
    assert out.dtype == torch.float32
    for a in range(3):
        for b in range(4):
            kept = slow_filter(logits[a, b].numpy(), temperature, top_k, top_p)
            for value in range(20):
                if value in kept:
                    assert_close(out[a, b, value], logits[a, b, value] / temperature)
                else:
                    assert out[a, b, value] == -torch.inf


def test_temperature_zero_is_greedy() -> None:
    logits = torch.randn(5, 7, 20)
    out = filter_logits(logits, 0.0, top_k=3, top_p=0.5)
    assert ((out > -torch.inf).sum(dim=-1) == 1).all()
    for uniform in (0.0, 0.5, 1 - 2**-24):
        chosen = draw(out, torch.full((5, 7), uniform))
        assert torch.equal(chosen, logits.argmax(dim=-1))


def test_restricted_logits_stay_restricted() -> None:
    logits = torch.full((1, 20), -torch.inf)
    logits[0, [3, 9]] = torch.tensor([0.1, 2.0])
    for options in (dict(top_k=5), dict(top_p=0.99), dict(top_p=1e-3), {}):
        left = filter_logits(logits, **options).isfinite().nonzero()[:, 1].tolist()
        assert left == ([9] if options.get('top_p') == 1e-3 else [3, 9])
    assert filter_logits(logits, 0.0).argmax() == 9


# --------------------------------------------------------------------------- inversion


def test_inversion_against_a_slow_loop() -> None:
    logits, uniform = torch.randn(4, 50, 9) * 2, torch.rand(4, 50)
    chosen = draw(logits, uniform)
    for a in range(4):
        for b in range(50):
            chance = np.exp(logits[a, b].numpy().astype(np.float64))
            chance = chance / chance.sum()
            total, value = 0.0, 0
            for value, c in enumerate(chance):  # noqa: B007
                total += c
                if uniform[a, b] < total:
                    break
            assert chosen[a, b] == value


def test_frequencies() -> None:
    logits = torch.tensor([0.3, -1.0, 2.0, -torch.inf, 0.0, 1.2])
    uniform = uniform_noise([11], (20000,), 'cpu')[0]
    drawn = draw(logits.expand(20000, -1), uniform)
    seen = torch.bincount(drawn, minlength=6).numpy()
    expected = logits.double().softmax(dim=0).numpy() * 20000
    assert seen[3] == 0
    possible = expected > 0
    assert stats.chisquare(seen[possible], expected[possible]).pvalue > 0.01


def test_values_of_chance_zero_are_never_drawn() -> None:
    logits = torch.full((2, 6), -torch.inf)
    logits[0, 2], logits[1, [0, 4]] = 5.0, 1.0
    for uniform in (0.0, 2**-24, 0.5 - 2**-25, 0.5, 1 - 2**-24):
        chosen = draw(logits, torch.full((2,), uniform))
        assert chosen[0] == 2
        assert chosen[1] == (0 if uniform < 0.5 else 4)


# ---------------------------------------------------------------------------- guidance


def test_guidance_formula() -> None:
    logits = torch.randn(6, 2, 5)
    for scale in (0.0, 1.0, 1.9):
        out = guide(logits, scale)
        for b in range(3):
            given, free = logits[b], logits[b + 3]
            assert_close(out[b], (1 - scale) * free + scale * given)
    assert_close(guide(logits, 1.0), logits[:3])
    each = torch.tensor([[1.0, 2.0]])[..., None]
    assert torch.equal(guide(logits, each)[:, 1], guide(logits, 2.0)[:, 1])


def test_guidance_schedules() -> None:
    assert [guidance_scale(3.0, s, 'constant') for s in (0, 0.5, 1)] == [3.0] * 3
    assert [guidance_scale(3.0, s, 'linear') for s in (0, 0.5, 1)] == [1.0, 2.0, 3.0]
    rule = SamplingRule(guidance=(3.0, 5.0), guidance_schedule='linear')
    table = rule.scales(5, 2, torch.zeros(1))
    assert_close(table[:, 0], torch.tensor([1.0, 1.5, 2.0, 2.5, 3.0]))
    assert_close(table[:, 1], torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0]))
    assert SamplingRule(guidance=1.5).scales(1, 2, table).tolist() == [[1.5, 1.5]]
    assert SamplingRule(guidance=(1.0, 1.5)).guided
    assert not SamplingRule(guidance=(1.0, 1)).guided and not SamplingRule().guided


def test_options_of_the_parts() -> None:
    rule = SamplingRule(temperature=(0.0, 1.0), top_k=(0, 1), top_p=0.5)
    logits, noise = torch.randn(2, 3, 8), torch.full((2, 3, 2), 0.999)
    for part in range(2):  # greedy in both: by the temperature, by top_k
        assert torch.equal(rule.choose(part, logits, noise), logits.argmax(dim=-1))
    rule = SamplingRule(guidance=(1.0, 2.0))
    both, scale = torch.randn(4, 3, 8), torch.tensor([[1.0, 2.0]]).expand(3, -1)
    assert_close(rule.guide(0, both, scale), both[:2])
    assert_close(rule.guide(1, both, scale), 2 * both[:2] - both[2:])
    assert SamplingRule().guide(0, logits, scale) is logits


# ------------------------------------------------------------------------------- seeds


def test_seeds_depend_on_run_and_number_alone() -> None:
    seeds = sample_seeds(42, 0, 1000)
    assert len(set(seeds)) == 1000 and all(0 <= s < 2**63 for s in seeds)
    assert sample_seeds(42, 7, 3) == seeds[7:10]
    assert not set(sample_seeds(43, 0, 1000)) & set(seeds)
    assert sample_seeds(42, 0, 0) == []


def test_noise_is_a_stream_a_sample() -> None:
    noise = uniform_noise([5, 6, 5], (4, 2), 'cpu')
    assert noise.shape == (3, 4, 2) and torch.equal(noise[0], noise[2])
    assert torch.equal(uniform_noise([6], (4, 2), 'cpu')[0], noise[1])
    assert not torch.equal(noise[0], noise[1])
    many = uniform_noise(sample_seeds(0, 0, 200), (50,), 'cpu').flatten().numpy()
    assert many.min() >= 0 and many.max() < 1
    assert stats.kstest(many, 'uniform').pvalue > 0.01
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    uniform_noise([1], (4,), 'cpu')
    assert torch.equal(torch.random.get_rng_state(), before)


# --------------------------------------------------------------------------- bad input


BAD = [
    (dict(top_p=0.0), r'top_p=0.0 is out of range; give numbers in \(0, 1\]'),
    (dict(top_p=(0.5, 1.5)), r'top_p=\(0.5, 1.5\)'),
    (dict(top_p=float('nan')), 'top_p=nan'),
    (dict(top_p='0.9'), 'top_p=0.9 is out of range'),
    (dict(top_p=(0.5,)), r'top_p=\(0.5,\) is for 1 parts, but a code has 2; give one'),
    (dict(temperature=-0.1), 'temperature=-0.1 .* at least 0; 0 is greedy'),
    (dict(temperature=[1.0, -2]), r'temperature=\[1.0, -2\]'),
    (dict(temperature=float('inf')), 'temperature=inf'),
    (dict(temperature=None), 'temperature=None'),
    (dict(top_k=-1), 'top_k=-1'),
    (dict(top_k=2.5), 'top_k=2.5 .* whole numbers'),
    (dict(top_k=()), r'top_k=\(\) is for 0 parts'),
    (dict(guidance=-2.0), 'guidance=-2.0'),
    (dict(guidance=float('inf')), 'guidance=inf .* finite numbers'),
    (dict(guidance=(1.0, float('nan'))), r'guidance=\(1.0, nan\)'),
    (dict(guidance=(1.5,)), r'guidance=\(1.5,\) is for 1 parts'),
    (dict(guidance=(1.5, 2, 3)), r'guidance=\(1.5, 2, 3\) is for 3 parts'),
    (dict(guidance_schedule='cosine'), "guidance_schedule='cosine' .* linear"),
    (dict(top_n=3), 'top_n=3 is no option of sampling here; .* temperature, top_k'),
]


@pytest.mark.parametrize(('options', 'message'), BAD)
def test_bad_options(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_sampling(2, **options)
    for kind in (MergeAR, RandAR):
        with pytest.raises(ValueError, match=message):
            tiny.make(kind).generate([1], **options)


@pytest.mark.parametrize(
    ('kind', 'options', 'message'),
    [
        (MergeAR, dict(speculative=-1), 'speculative=-1 is no whole number of at lea'),
        (MergeAR, dict(speculative=1.5), 'speculative=1.5 .* 0 draws the tokens one'),
        (MergeAR, dict(speculative=True), 'speculative=True'),
        (MergeAR, dict(restrict=3), 'restrict=3 is neither True nor False'),
        (MergeAR, dict(cache='paged'), "cache='paged' is not known"),
        (MergeAR, dict(step='jit'), "step='jit' is not known; .* eager, compile, gr"),
        (MergeAR, dict(step='graph'), "step='graph' .* on the cpu; use step='compile'"),
        (
            MergeAR,
            dict(step='compile', speculative=2),
            "step='compile' compiles .* speculative=2 .* use step='graph' or 'eager'",
        ),
        (MergeAR, dict(num_steps=4), 'num_steps=4 is no option of sampling here'),
        (RandAR, dict(num_steps=0), 'num_steps=0 is no whole number of at least 1'),
        (RandAR, dict(num_steps=2.5), 'num_steps=2.5'),
        (
            RandAR,
            dict(step='compile'),
            "step='compile' is not for RandAR, whose passes",
        ),
        (RandAR, dict(restrict=True), 'restrict=True is an option of raster generat'),
    ],
)
def test_bad_options_of_one_generator(kind: type, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny.make(kind).generate([1], **options)


def test_restriction_of_the_distinct_codes_means_nothing() -> None:
    model = tiny.make(MergeAR, sequence='distinct')
    with pytest.raises(ValueError, match='restrict=True has no meaning for sequence='):
        model.generate([1], restrict=True)
    drawn = model.sample_codes(torch.tensor([1]), 4, [0], restrict=False)
    assert drawn.index.shape == (1, 4)
