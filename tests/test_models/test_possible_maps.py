"""The best of the maps that can exist, against a search through all of them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from mergevq_mm.models.utils.group_map import first_occurrence, raster_order
from mergevq_mm.models.utils.possible_maps import (
    best_possible_map,
    check_first_places,
)


def possible_maps(length: int, keep: int) -> Iterator[tuple[int, ...]]:
    """All maps of L places to K groups that are numbered by their first place."""
    for groups in itertools.product(range(keep), repeat=length):
        seen = list(dict.fromkeys(groups))
        if seen == list(range(keep)):
            yield groups


def total(scores: Tensor, groups: tuple[int, ...]) -> float:
    return math.fsum(float(scores[place, k]) for place, k in enumerate(groups))


def first_places(groups: tuple[int, ...], keep: int) -> list[int]:
    return [groups.index(k) for k in range(keep)]


SIZES = [(length, keep) for length in range(1, 8) for keep in range(1, length + 1)]


@pytest.mark.parametrize(('length', 'keep'), SIZES)
def test_it_is_the_best_of_all_maps(length: int, keep: int) -> None:
    rng = torch.Generator().manual_seed(length)
    scores = torch.randn(4, length, keep, generator=rng) * 3
    maps = list(possible_maps(length, keep))
    for found, own in zip(best_possible_map(scores), scores, strict=True):
        assert tuple(found.tolist()) == max(maps, key=lambda m: total(own, m))


@pytest.mark.parametrize(('length', 'keep'), [(5, 1), (6, 3), (7, 4), (6, 6)])
def test_with_first_places_it_is_the_best_of_those_that_have_them(
    length: int, keep: int
) -> None:
    maps = list(possible_maps(length, keep))
    rng = torch.Generator().manual_seed(keep)
    scores = torch.randn(len(maps), length, keep, generator=rng)
    first = torch.tensor([first_places(groups, keep) for groups in maps])
    found = best_possible_map(scores, first)
    assert torch.equal(first_occurrence(found, keep), first)
    for groups, own, places in zip(found, scores, first.tolist(), strict=True):
        fitting = [m for m in maps if first_places(m, keep) == places]
        assert tuple(groups.tolist()) == max(fitting, key=lambda m: total(own, m))


def test_every_place_is_a_group_where_there_are_as_many() -> None:
    found = best_possible_map(torch.randn(3, 64, 64))
    assert torch.equal(found, torch.arange(64).expand(3, -1))


@pytest.mark.parametrize('keep', [1, 16, 36, 63])
def test_scores_of_a_map_give_it_back(keep: int) -> None:
    group = torch.randint(keep, (5, 64))
    group[:, torch.randperm(64)[:keep]] = torch.arange(keep)  # each has a place
    group, _ = raster_order(group, keep)
    scores = torch.nn.functional.one_hot(group, keep).half()
    assert torch.equal(best_possible_map(scores), group)


@pytest.mark.parametrize('value', [-math.inf, math.nan])
def test_what_is_forbidden_is_avoided_as_far_as_possible(value: float) -> None:
    scores = torch.randn(1, 6, 3)
    scores[0, 1:4, 1] = value
    scores[0, 2] = value  # nothing is left at one place
    allowed = [m for m in possible_maps(6, 3) if 1 not in (m[1], m[3])]
    places = [0, 1, 3, 4, 5]
    expected = max(
        allowed, key=lambda m: sum(float(scores[0, p, m[p]]) for p in places)
    )
    found = tuple(best_possible_map(scores)[0].tolist())
    assert [found[p] for p in places] == [expected[p] for p in places]
    nothing = best_possible_map(torch.full((1, 6, 3), value))[0]
    assert tuple(nothing.tolist()) in set(possible_maps(6, 3))


def test_long_sums_are_not_rounded() -> None:
    """A thousand large scores must not hide what two small ones decide."""
    length, early, late = 2049, 3, 2000
    scores = torch.zeros(2, length, 2)
    scores[:, :, 1] = -300.0
    scores[0, early, 1] = scores[1, late, 1] = -300 + 2**-10
    found = first_occurrence(best_possible_map(scores), 2)
    assert found[:, 1].tolist() == [early, late]


def test_it_never_asks_the_device() -> None:
    """On the meta device there are no values that it could wait for."""
    scores = torch.zeros(2, 12, 5, device='meta')
    first = torch.zeros(2, 5, dtype=torch.int64, device='meta')
    assert best_possible_map(scores).shape == (2, 12)
    assert best_possible_map(scores, first).shape == (2, 12)


def test_more_groups_than_places_are_refused() -> None:
    with pytest.raises(ValueError, match=r'\(1, 3, 4\).*K <= L'):
        best_possible_map(torch.zeros(1, 3, 4))
    with pytest.raises(ValueError, match=r'first of shape \(1, 3\)'):
        best_possible_map(torch.zeros(1, 4, 2), torch.zeros(1, 3, dtype=torch.int64))


@pytest.mark.parametrize(
    'first', [[1, 2, 3], [0, 3, 2], [0, 2, 2], [0, 2, 9], [0, -1, 3]]
)
def test_first_places_that_contradict_each_other_are_refused(first: list[int]) -> None:
    both = torch.tensor([[0, 3, 8], first])
    check_first_places(both[:1], (1, 3), 9)
    with pytest.raises(ValueError, match='of image 1 are not the first places') as why:
        check_first_places(both, (2, 3), 9)
    assert str(first) in str(why.value)


@pytest.mark.parametrize(
    'first', [torch.tensor([[0, 1, 2]]), torch.tensor([[0, 1]] * 2), torch.zeros(2, 3)]
)
def test_first_places_of_another_shape_or_type_are_refused(
    first: torch.Tensor,
) -> None:
    with pytest.raises(ValueError, match='does not go with 3 codes of 2 images; give'):
        check_first_places(first, (2, 3), 9)
