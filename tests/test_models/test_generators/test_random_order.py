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
    in_order,
    instruct,
    interleave,
    parallel_mask,
    parallel_schedule,
    sampled_positions,
)
from mergevq_mm.models.generators.rotary import rotary_factors
from mergevq_mm.models.generators.sampling import sample_seeds, uniform_noise


def test_schedules_draw_everything() -> None:
    for number in range(1, 70):
        for steps in range(1, 80):
            schedule = parallel_schedule(number, steps)
            assert len(schedule) == min(steps, number)
            assert sum(schedule) == number and min(schedule) >= 1


@pytest.mark.parametrize(('number', 'steps'), [(256, 88), (144, 64), (1024, 88)])
def test_schedules_follow_the_arc_cosine(number: int, steps: int) -> None:
    schedule = parallel_schedule(number, steps)
    done = list(itertools.accumulate(schedule))
    for step, drawn in enumerate(done, 1):
        share = 1 - math.acos(step / steps) / (math.pi / 2)
        assert abs(drawn - number * share) <= 0.5 + 1e-9
    # Few while little is known, many at the end.
    half = len(schedule) // 2
    assert sum(schedule[:half]) < 0.4 * number and schedule[-1] == max(schedule)


def test_schedules_at_the_ends() -> None:
    assert parallel_schedule(5, 1) == [5]
    assert parallel_schedule(5, 5) == parallel_schedule(5, 88) == [1] * 5
    assert parallel_schedule(1, 88) == [1]
    for steps in (0, -3):
        with pytest.raises(ValueError, match=f'num_steps={steps} draws nothing'):
            parallel_schedule(5, steps)


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
