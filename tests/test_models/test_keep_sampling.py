"""The number of kept tokens: its distributions, and a pure function of (seed, step)."""

from __future__ import annotations

import random
from collections import Counter

import numpy as np
import pytest
import torch
from scipy import stats

from mergevq_mm.models.utils.keep_sampling import KeepSampler

# Spec section 3.4; probabilities as printed there.
TABLE = [
    (
        {'target': 256, 'family': 'gaussian', 'number': 9},
        [225, 256, 289, 324, 361, 400, 441, 484, 529],
        [0.108, 0.610, 0.108, *[0.029] * 6],
    ),
    (
        {'target': 256, 'family': 'gaussian', 'number': 8},
        [225, 256, 289, 324, 361, 400, 441, 484],
        [0.111, 0.628, 0.111, *[0.030] * 5],
    ),
    (
        {'target': 144, 'family': 'gaussian', 'number': 6},
        [121, 144, 169, 196, 225, 256],
        [0.118, 0.668, 0.118, *[0.032] * 3],
    ),
    (
        {'target': 64, 'family': 'gaussian', 'number': 6},
        [49, 64, 81, 100, 121, 144],
        [0.118, 0.668, 0.118, *[0.032] * 3],
    ),
    (  # 2 exp(-2k) + 0.1 over their sum 2.8130
        {'target': 36, 'family': 'exponential', 'number': 5},
        [36, 49, 64, 81, 100],
        [0.747, 0.132, 0.049, 0.037, 0.036],
    ),
]


@pytest.mark.parametrize(('arguments', 'candidates', 'probabilities'), TABLE)
def test_tables(arguments: dict, candidates: list, probabilities: list) -> None:
    sampler = KeepSampler(**arguments)
    assert sampler.candidates == tuple(candidates)
    assert sum(sampler.probabilities) == pytest.approx(1)
    # The tail of 'gaussian-6' is 0.0325 and 0.0319; the spec gives three digits.
    assert sampler.probabilities == pytest.approx(probabilities, abs=6e-4)
    assert sampler.target == arguments['target']


@pytest.mark.parametrize(('arguments', 'candidates', '_'), TABLE[:1] + TABLE[-1:])
def test_frequencies(arguments: dict, candidates: list, _: list) -> None:
    sampler = KeepSampler(**arguments, seed=5)
    number = 20000
    counts = Counter(map(sampler, range(number)))
    found = [counts[k] for k in candidates]
    assert sum(found) == number
    expected = [p * number for p in sampler.probabilities]
    assert stats.chisquare(found, expected).pvalue > 1e-3


def test_near_iterations_and_seeds_are_independent() -> None:
    samplers = [KeepSampler(16, candidates=[1, 2, 3], seed=s) for s in (0, 1)]
    first, other = (list(map(s, range(6000))) for s in samplers)
    for a, b in ((first[:-1], first[1:]), (first, other)):
        table = np.zeros((3, 3))
        np.add.at(table, (np.array(a) - 1, np.array(b) - 1), 1)
        assert stats.chi2_contingency(table).pvalue > 1e-3


def test_pure_function_of_seed_and_iteration() -> None:
    sampler = KeepSampler(144, seed=3)
    sequence = [sampler(i) for i in range(50)]
    random.seed(7)
    torch.manual_seed(7)
    state = random.getstate(), torch.get_rng_state()
    backwards = [KeepSampler(144, seed=3)(i) for i in reversed(range(50))]
    assert backwards[::-1] == sequence
    assert random.getstate() == state[0]  # and the run's random numbers stay
    assert torch.equal(torch.get_rng_state(), state[1])
    assert [KeepSampler(144, seed=4)(i) for i in range(50)] != sequence
    assert sampler(np.int64(3)) == sampler(3)


def test_sequence_is_known() -> None:
    # Whatever the hash seed of the process: ranks agree and resumed runs go on alike.
    found = [KeepSampler(144, seed=3)(i) for i in range(20)]
    assert found[:10] == [144, 144, 144, 256, 144, 196, 144, 144, 144, 169]
    assert found[10:] == [144, 144, 169, 144, 144, 144, 169, 144, 169, 144]


def test_candidates_need_not_be_squares() -> None:
    sampler = KeepSampler(20, candidates=[20, 33], weights=[3, 1])
    assert sampler.candidates == (20, 33) and sampler.probabilities == (0.75, 0.25)
    assert {sampler(i) for i in range(100)} == {20, 33}
    assert {KeepSampler(17, candidates=[17])(i) for i in range(9)} == {17}
    never = KeepSampler(4, candidates=[4, 9], weights=[1, 0])
    assert {never(i) for i in range(200)} == {4}
    uniform = KeepSampler(36, family='uniform', number=3)
    assert uniform.candidates == (36, 49, 64)
    assert uniform.probabilities == pytest.approx([1 / 3] * 3)


def test_repr_names_the_distribution() -> None:
    assert repr(KeepSampler(4, candidates=[4, 9])).startswith('KeepSampler(4: 0.')


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ({'target': 144, 'family': 'cosine'}, "family='cosine' .* gaussian, expo"),
        ({'target': 150}, 'target=150 .* not a usable square'),
        ({'target': 1}, 'target=1 .* not a usable square'),  # one below is 0
        ({'target': -4}, 'target=-4'),
        ({'target': 0, 'family': 'exponential'}, 'target=0'),
        ({'target': 4, 'candidates': [4, 0]}, r'candidates=\[4, 0\]'),
        ({'target': 4, 'candidates': []}, r'candidates=\[\]'),
        ({'target': 144, 'number': 0}, r'candidates=\[\]'),
        ({'target': 4, 'candidates': [4], 'weights': [1, 2]}, r'weights=\[1, 2\]'),
        ({'target': 4, 'candidates': [4, 9], 'weights': [1, -1]}, r'weights=\[1, -1\]'),
        ({'target': 4, 'candidates': [4, 9], 'weights': [0, 0]}, r'weights=\[0, 0\]'),
        (
            {'target': 4, 'candidates': [4, 9], 'weights': [1, float('nan')]},
            r'weights=\[1, nan\]',
        ),
    ],
)
def test_errors(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        KeepSampler(**arguments)
