"""Schedules, instructions and masks of the random order, against slow loops."""

from __future__ import annotations

import cmath
import itertools
import math

import pytest
import torch
from scipy import stats
from torch.testing import assert_close

from mergevq_mm.models.generators.random_order import (
    LAWS,
    in_order,
    instruct,
    interleave,
    parallel_mask,
    parallel_schedule,
    sampled_positions,
)
from mergevq_mm.models.generators.rotary import rotary_factors
from mergevq_mm.models.generators.sampling import sample_seeds, uniform_noise


@pytest.mark.parametrize('law', LAWS)
def test_schedules_draw_everything(law: str) -> None:
    for number in range(1, 70):
        for steps in range(1, 80):
            schedule = parallel_schedule(number, steps, law)
            assert len(schedule) == min(steps, number)
            assert sum(schedule) == number and min(schedule) >= 1
            assert schedule == sorted(schedule)


@pytest.mark.parametrize(
    ('number', 'steps', 'counts'),
    [
        (144, 64, {1: 24, 2: 8, 3: 24, 4: 8}),
        (256, 88, {1: 25, 2: 7, 3: 18, 4: 27, 5: 11}),
        (16, 8, {1: 3, 2: 2, 3: 3}),
    ],
)
def test_the_published_schedule(number: int, steps: int, counts: dict) -> None:
    schedule = parallel_schedule(number, steps)
    assert schedule == [many for many, times in counts.items() for _ in range(times)]
    # The share 1 - cos(π/2 t/S), up to the one code that each step draws at least.
    for step, done in enumerate(itertools.accumulate(schedule), 1):
        share = 1 - math.cos(math.pi / 2 * step / steps)
        assert abs(done - max(number * share, step)) < 0.03 * number


def test_the_arc_cosine_draws_many_at_the_end() -> None:
    assert parallel_schedule(144, 64, 'arccos')[-5:] == [4, 5, 5, 7, 16]
    assert parallel_schedule(256, 88, 'arccos')[-5:] == [6, 6, 8, 10, 25]
    assert parallel_schedule(7, 3, 'arccos') == [1, 2, 4]


def test_schedules_at_the_ends() -> None:
    assert parallel_schedule(5, 1) == [5]
    assert parallel_schedule(5, 5) == parallel_schedule(5, 88) == [1] * 5
    assert parallel_schedule(1, 88) == [1]
    for steps in (0, -3):
        with pytest.raises(ValueError, match=f'num_steps={steps} draws nothing'):
            parallel_schedule(5, steps)
    with pytest.raises(ValueError, match="step_schedule='sine' is not known; .* cosin"):
        parallel_schedule(5, 2, 'sine')


def test_instructions_are_one_vector_turned_to_the_places() -> None:
    heads, width = 3, 8
    vector, places = torch.randn(heads * width), torch.randint(9, (2, 5, 2))
    out = instruct(vector, rotary_factors(places, width))
    assert out.shape == (2, 5, heads * width)
    for b, n in itertools.product(range(2), range(5)):
        for head, pair in itertools.product(range(heads), range(width // 2)):
            at = places[b, n, pair // 2].item()  # two frequencies each way
            turn = cmath.exp(1j * at * 10000 ** -((pair % 2) / 2))
            channel = head * width + 2 * pair
            now = torch.complex(*out[b, n, channel : channel + 2])
            before = torch.complex(*vector[channel : channel + 2])
            assert_close(now, before * turn)
    assert torch.equal(
        instruct(vector, rotary_factors(places * 0, width))[1, 2], vector
    )


def test_order_and_pairs() -> None:
    values = torch.randn(2, 4, 3, 5)
    order = torch.tensor([[3, 0], [1, 1]])
    rearranged = in_order(values, order)
    for b, slots in enumerate(order.tolist()):
        for n, slot in enumerate(slots):
            assert torch.equal(rearranged[b, n], values[b, slot])
    assert in_order(torch.tensor([[7, 8, 9]]), torch.tensor([[2, 0, 1]])).tolist() == [
        [9, 7, 8]
    ]
    pairs = interleave(torch.tensor([[1, 2]]), torch.tensor([[10, 20]]))
    assert pairs.tolist() == [[1, 10, 2, 20]]


def test_who_sees_whom_in_a_pass() -> None:
    for finished, known, asked in ((0, 2, 3), (7, 4, 2), (5, 0, 1), (3, 2, 0)):
        mask = parallel_mask(finished, known, asked, 'cpu')
        total = finished + known + asked
        assert mask.shape == (known + asked, total)
        for row in range(known + asked):
            me = finished + row
            for key in range(total):
                stays = key < finished + known
                expected = key == me or (stays and key < me)
                assert mask[row, key] == expected


def test_sampled_positions_are_subsets_with_the_first() -> None:
    length, number = 6, 3
    noise = uniform_noise(sample_seeds(0, 0, 6000), (length - 1,), 'cpu')
    positions = sampled_positions(noise, number)
    assert (positions[:, 0] == 0).all() and (positions.diff(dim=1) > 0).all()
    subsets = list(itertools.combinations(range(1, length), number - 1))
    drawn = [tuple(row) for row in positions[:, 1:].tolist()]
    counts = [drawn.count(subset) for subset in subsets]
    assert sum(counts) == 6000 and stats.chisquare(counts).pvalue > 0.01
    assert sampled_positions(noise[:2], length).tolist() == [list(range(length))] * 2
    assert sampled_positions(noise[:2], 1).tolist() == [[0], [0]]
