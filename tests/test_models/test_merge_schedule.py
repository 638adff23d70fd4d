"""Numbers of merged tokens: the known schedules, and exact totals everywhere."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mergevq_mm.models.utils.merge_schedule import (
    SCHEDULES,
    check_removed,
    merge_schedule,
)

# Spec section 3.3, from the authors' code.
KNOWN = {
    (1024, 256): [101, 90, 84, 78, 72, 66, 61, 55, 49, 43, 37, 32],
    (256, 144): [12, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 5],
    (256, 64): [29, 22, 21, 19, 18, 16, 15, 13, 12, 10, 9, 8],
    (256, 36): [25, 26, 24, 23, 21, 19, 18, 16, 14, 13, 11, 10],
}


def reference_linear(length: int, keep: int, layers: int) -> list[int]:
    """Spec section 3.3, with the mean searched among all integers."""
    total = length - keep
    best = None
    for mean in range(total + 2):
        first = int(1.5 * mean)
        last = 2 * mean - first
        wish = [
            int(first + layer * (last - first) / (layers - 1))
            for layer in range(layers)
        ]
        if best is None or abs(sum(wish) - total) < abs(sum(best) - total):
            best = wish
    best[0] += total - sum(best)
    return best


@pytest.mark.parametrize(('length', 'keep'), KNOWN)
def test_linear_is_the_authors(length: int, keep: int) -> None:
    assert merge_schedule(length, keep, 12) == KNOWN[length, keep]


@pytest.mark.parametrize('layers', [4, 12])
def test_linear_follows_its_definition(layers: int) -> None:
    for keep in range(60, 257):
        wish = reference_linear(256, keep, layers)
        tokens, possible = 256, True
        for number in wish:
            possible &= 0 <= number <= tokens // 2
            tokens -= number
        if possible:  # else the schedule has to deviate, see the next tests
            assert merge_schedule(256, keep, layers) == wish


def test_constant_and_square() -> None:
    assert merge_schedule(256, 136, 12, 'constant') == [10] * 12
    assert merge_schedule(256, 133, 12, 'constant') == [11] * 3 + [10] * 9
    # (N - l)^2 of 16 + 9 + 4 + 1 = 30 parts: 60 tokens by the square law, exactly.
    assert merge_schedule(100, 40, 4, 'square') == [32, 18, 8, 2]
    # floor(61 * 16 / 30) = 32, 18, 8, 2; the remainder at layer 0.
    assert merge_schedule(100, 39, 4, 'square') == [33, 18, 8, 2]


@given(st.data())
@settings(max_examples=300, deadline=None, derandomize=True)
def test_total_is_exact_and_no_layer_merges_more_than_half(data: st.DataObject) -> None:
    layers = data.draw(st.integers(1, 13))
    length = data.draw(st.integers(1, 1100))
    least = -(-length // 2**layers)
    keep = data.draw(st.integers(least, length))
    schedule = data.draw(st.sampled_from(sorted(SCHEDULES)))
    removed = merge_schedule(length, keep, layers, schedule)
    assert len(removed) == layers
    assert sum(removed) == length - keep
    tokens = length
    for number in removed:
        assert isinstance(number, int) and 0 <= number <= tokens // 2
        tokens -= number
    check_removed(length, removed)


@pytest.mark.parametrize('schedule', SCHEDULES)
def test_limits(schedule: str) -> None:
    assert merge_schedule(64, 64, 4, schedule) == [0] * 4  # K = L: no merging
    assert merge_schedule(64, 4, 4, schedule) == [32, 16, 8, 4]  # all that is possible
    assert merge_schedule(2, 1, 1, schedule) == [1]
    assert merge_schedule(64, 63, 4, schedule) == [1, 0, 0, 0]


def test_excess_moves_to_the_next_layers() -> None:
    # Of 100 tokens, 80 can be merged as the square law asks, 44, 24, 10, 2. For 92 it
    # asks for 50, 27, 12, 3: layer 1 can merge but 25 of 50, and its two are owed.
    assert merge_schedule(100, 20, 4, 'square') == [44, 24, 10, 2]
    assert merge_schedule(100, 8, 4, 'square') == [50, 25, 12, 5]


def test_errors_name_argument_value_and_remedy() -> None:
    with pytest.raises(ValueError, match=r"schedule='cubic' .* linear, constant"):
        merge_schedule(64, 32, 4, 'cubic')
    with pytest.raises(ValueError, match=r'keep=0 lies outside \[1, 64\]'):
        merge_schedule(64, 0, 4)
    with pytest.raises(ValueError, match=r'keep=65 lies outside \[1, 64\]'):
        merge_schedule(64, 65, 4)
    with pytest.raises(ValueError, match=r'keep=3 cannot be reached .* at most to 4'):
        merge_schedule(64, 3, 4)
    with pytest.raises(ValueError, match=r'keep=4 cannot be reached .* at most to 5'):
        merge_schedule(65, 4, 4)


def test_hand_made_numbers_are_checked() -> None:
    check_removed(64, [32, 16, 8, 4])
    check_removed(64, [0, 0, 0, 0])
    with pytest.raises(ValueError, match=r'r=33 in layer 0 lies outside \[0, 32\]'):
        check_removed(64, [33, 0])
    with pytest.raises(ValueError, match=r'r=17 in layer 1 lies outside \[0, 16\]'):
        check_removed(64, [32, 17])
    with pytest.raises(ValueError, match=r'r=-1 in layer 1'):
        check_removed(64, [0, -1])
