"""First places that are drawn with the codes: always possible, and told to the neck."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import pytest
import tiny_mergear as tiny
import torch
from tiny_mergear import LENGTH, SPLIT
from torch import Tensor
from torch.testing import assert_close

from mergevq_mm.models.generators import CodeBatch, MergeAR, RandAR, decoding_step
from mergevq_mm.models.generators.code_drawing import SamplingRule
from mergevq_mm.models.generators.code_generator import CodeGenerator
from mergevq_mm.models.generators.first_places import (
    Beginnings,
    join_places,
    place_bits,
    split_places,
)
from mergevq_mm.models.generators.random_order import in_order
from mergevq_mm.models.quantizers.lfq_functional import split_index
from mergevq_mm.models.utils.group_map import first_occurrence, raster_order
from mergevq_mm.models.utils.possible_maps import check_first_places
from mergevq_mm.utils.operator_count import count_operators

LABELS, SEEDS, KEEP = torch.tensor([1, 4, 9, 0]), [5, 6, 7, 8], 9
KINDS = {'distinct': (MergeAR, dict(sequence='distinct')), 'random': (RandAR, {})}
PLACES, GROUPS = 6, 3  # few enough to go through all of them


def make(kind: str, **cfg: Any) -> CodeGenerator:
    generator, options = KINDS[kind]
    return tiny.make(generator, keep=KEEP, first_places=True, **{**options, **cfg})


def batch_of(number: int = 4) -> CodeBatch:
    """Codes of images that have been merged at random, the groups in raster order."""
    some = torch.cat([torch.arange(KEEP), torch.randint(KEEP, (LENGTH - KEEP,))])
    group = torch.stack([some[torch.randperm(LENGTH)] for _ in range(number)])
    group = raster_order(group, KEEP)[0]
    index = torch.randint(2 ** sum(SPLIT), (number, KEEP))
    return CodeBatch(index, group, LABELS[:number], tiny.GRID)


# --------------------------------------------------------------- tokens and places


@pytest.mark.parametrize(
    ('length', 'bits'),
    [(1, 1), (2, 1), (3, 2), (64, 6), (196, 8), (256, 8), (1024, 10)],
)
def test_places_fit_into_their_bits(length: int, bits: int) -> None:
    assert place_bits(length) == bits


def test_tokens_come_apart_as_they_were_joined() -> None:
    index, first = torch.tensor([[0, 2**18 - 1, 77]]), torch.tensor([[0, 5, 63]])
    token = join_places(index, first, 6)
    assert split_places(token, 6)[0].equal(index)
    assert split_places(token, 6)[1].equal(first)
    # The place is the first part of a token, so that the codes are drawn knowing it.
    assert split_index(token, (6, 6, 12))[0].equal(first)


def possible(opened: set[int], kept: dict[int, int]) -> list[tuple[int, ...]]:
    """All first places of GROUPS groups, of which some are kept and others open."""
    found = []
    for rest in combinations(range(1, PLACES), GROUPS - 1):
        first = (0, *rest)
        right = all(first[rank] == place for rank, place in kept.items())
        drawn = {p for rank, p in enumerate(first) if rank not in kept}
        if right and drawn <= opened:
            found.append(first)
    return found


@pytest.mark.parametrize('kept', [{}, {0: 0}, {1: 2}, {0: 0, 2: 4}, {2: 5}])
@pytest.mark.parametrize('opened', [{0, 1, 2, 3, 4, 5}, {0, 1, 3, 4}, {0, 2, 3, 5}])
def test_allowed_places_are_those_of_all_possible_ones(
    kept: dict[int, int], opened: set[int]
) -> None:
    """Whatever is drawn first, what is allowed can be completed, and nothing else."""
    wanted = possible(opened, kept)
    open_ = torch.tensor([[place in opened for place in range(PLACES)]])
    beginnings, seen = Beginnings(3, open_), 0
    for first in wanted:
        missing = [rank for rank in range(GROUPS) if rank not in kept]
        for number in range(len(missing)):
            for there in combinations(missing, number):
                begins = torch.tensor(
                    [
                        [
                            first[rank] if rank in kept or rank in there else -1
                            for rank in range(GROUPS)
                        ]
                    ]
                )
                same = [
                    other
                    for other in wanted
                    if all(other[rank] == first[rank] for rank in there)
                ]
                for rank in set(missing) - set(there):
                    allowed = beginnings.allowed(begins, torch.tensor([[rank]]))
                    found = allowed[0].nonzero().flatten().tolist()
                    assert found == sorted({other[rank] for other in same})
                    seen += 1
    assert seen or not wanted


def allowed_by_definition(open_: Tensor, begins: list[int], rank: int) -> list[bool]:
    """Of one image: the places that leave room for the groups on both sides."""
    length, keep = len(open_), len(begins)
    lower = [k for k in range(rank) if begins[k] >= 0]
    upper = [k for k in range(rank + 1, keep) if begins[k] >= 0]
    below, above = max(lower, default=-1), min(upper, default=keep)
    start = max((begins[k] for k in lower), default=-1)
    end = min((begins[k] for k in upper), default=length) if rank else 1
    found = [
        bool(
            open_[p]
            and start < p < end
            and open_[start + 1 : p].sum() >= rank - below - 1
            and (rank == 0 or open_[p + 1 : end].sum() >= above - rank - 1)
        )
        for p in range(length)
    ]
    return found if any(found) else [True] * 2 ** place_bits(length)


@pytest.mark.parametrize('seed', range(6))
def test_groups_that_are_drawn_at_once_are_drawn_one_by_one(seed: int) -> None:
    """Also in an edit, where groups are kept at places that are not open."""
    torch.manual_seed(seed)
    number, length, groups = 12, 12, 5
    open_ = torch.rand(number, length) < (0.5 + 0.1 * seed)
    first = torch.rand(number, length - 1).argsort(dim=1)[:, : groups - 1] + 1
    first = torch.cat([torch.zeros_like(first[:, :1]), first.sort(dim=1).values], 1)
    order = torch.rand(number, groups).argsort(dim=1)
    begins = first.scatter(1, order[:, 2:], -1)  # two are there
    ranks = order[:, 2:]
    logits, noise = torch.randn(number, 3, 16), torch.rand(number, 3, 1)
    seen = []

    def choose(logits: Tensor, noise: Tensor) -> Tensor:
        seen.append(logits.isfinite()[:, 0])
        return SamplingRule().choose(0, logits, noise)

    drawn = Beginnings(4, open_).choose(begins, ranks, choose, logits, noise)
    for row in range(number):
        now = begins[row].tolist()
        for turn, at in enumerate(ranks[row].argsort().tolist()):
            rank = int(ranks[row, at])
            allowed = torch.zeros(16, dtype=torch.bool)
            found = torch.tensor(allowed_by_definition(open_[row], now, rank))
            allowed[: len(found)] = found
            assert seen[turn][row].equal(allowed), (row, turn)
            masked = logits[row, at].masked_fill(~allowed, -torch.inf)
            now[rank] = int(
                SamplingRule().choose(0, masked[None], noise[row, at, None])
            )
            assert drawn[row, at] == now[rank]


def test_a_place_more_costs_few_operators() -> None:
    """Beside those of drawing itself."""
    begins = torch.full((4, KEEP), -1)
    beginnings = Beginnings(5, torch.ones(4, LENGTH, dtype=torch.bool))
    totals = []

    def first_one(logits: Tensor, noise: Tensor) -> Tensor:
        return noise[..., 0].long()

    for number in (1, 2, 3):
        logits, noise = torch.randn(4, number, 32), torch.rand(4, number, 1)
        ranks = torch.rand(4, KEEP).argsort(dim=1)[:, :number]
        with count_operators() as counts:
            beginnings.choose(begins, ranks, first_one, logits, noise)
        totals.append(counts.total())
    each = totals[2] - totals[1]
    assert each <= 11, totals  # one of them converts, in place of a draw
    assert totals[0] <= 59, totals


def test_nothing_is_out_for_a_group_that_nobody_draws() -> None:
    """In an edit a kept group is gone through, too; its draw is thrown away."""
    beginnings = Beginnings(3, torch.zeros(1, PLACES, dtype=torch.bool))
    begins = torch.full((1, GROUPS), -1)
    assert beginnings.allowed(begins, torch.tensor([[1]])).all()


@pytest.mark.parametrize('temperature', [0.0, 1.0, 50.0])
def test_places_that_are_drawn_at_once_are_possible(temperature: float) -> None:
    rule, number = SamplingRule(temperature=temperature), 200
    beginnings = Beginnings(5, torch.ones(number, LENGTH, dtype=torch.bool))
    begins = torch.full((number, KEEP), -1)
    order = torch.rand(number, KEEP).argsort(dim=1)
    for ranks in order.split([1, 3, 5], dim=1):
        logits, noise = (
            torch.randn(number, ranks.shape[1], 32),
            torch.rand(number, 9, 3),
        )
        noise = noise[:, : ranks.shape[1]]

        def choose(logits: Tensor, noise: Tensor) -> Tensor:
            return rule.choose(0, logits, noise)

        drawn = beginnings.choose(begins, ranks, choose, logits, noise)
        begins = begins.scatter(1, ranks, drawn)
    check_first_places(begins, begins.shape, LENGTH)
    assert len(begins.unique(dim=0)) > number // 2


# ------------------------------------------------------------------ the generators


@pytest.mark.parametrize('kind', KINDS)
def test_first_places_are_learnt_as_a_part_of_the_token(kind: str) -> None:
    model, batch = make(kind), batch_of()
    losses = model.loss_codes(batch)
    assert list(losses) == ['loss_place', 'loss_pre', 'loss_post', 'code_acc']
    token = model.tokens(batch.index, batch.group)
    index, first = model.codes(token)
    assert index.equal(batch.index)
    assert first.equal(first_occurrence(batch.group, KEEP))
    assert model.embedding.split == model.head.split == (5, *SPLIT)
    losses['loss_place'].backward()
    assert model.head.heads[0].weight.grad.abs().sum() > 0


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('guidance', [1.0, 2.0])
@torch.no_grad()
def test_drawn_first_places_are_possible(kind: str, guidance: float) -> None:
    options = dict(num_steps=4) if kind == 'random' else {}
    drawn = make(kind).sample_codes(LABELS, KEEP, SEEDS, guidance=guidance, **options)
    assert not drawn.complete
    assert drawn.index.shape == drawn.first.shape == (4, KEEP)
    assert 0 <= drawn.index.min() and drawn.index.max() < 2 ** sum(SPLIT)
    check_first_places(drawn.first, (4, KEEP), LENGTH)
    assert len(drawn.first.unique(dim=0)) == 4
    distinct = [len(row.unique()) for row in drawn.index]
    assert drawn.stats['distinct'].tolist() == distinct


@pytest.mark.parametrize('kind', KINDS)
@torch.no_grad()
def test_a_sample_does_not_depend_on_its_batch(kind: str) -> None:
    model = make(kind)
    whole = model.sample_codes(LABELS, KEEP, SEEDS)
    alone = model.sample_codes(LABELS[2:3], KEEP, SEEDS[2:3])
    assert whole.index[2:3].equal(alone.index)
    assert whole.first[2:3].equal(alone.first)


@pytest.mark.parametrize('cache', ['full', 'compressed'])
@torch.no_grad()
def test_a_compiled_step_draws_the_same(
    cache: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoding_step, 'BACKEND', 'eager')
    model, options = make('distinct'), dict(guidance=1.5, cache=cache)
    drawn = model.sample_codes(LABELS, KEEP, SEEDS, **options)
    compiled = model.sample_codes(LABELS, KEEP, SEEDS, step='compile', **options)
    assert compiled.index.equal(drawn.index) and compiled.first.equal(drawn.first)


@torch.no_grad()
def test_greedy_tokens_are_the_likeliest_possible_ones() -> None:
    """Teacher forcing on what was drawn gives the same choice, place and code."""
    model = make('distinct')
    drawn = model.sample_codes(LABELS, KEEP, SEEDS, temperature=0)
    token = join_places(drawn.index, drawn.first, model.place_bits)
    logits = model.logits(token, LABELS, KEEP)
    for part, (logit, value) in enumerate(
        zip(logits, split_index(token, model.head.split), strict=True)
    ):
        if part == 0:  # of the places after the one before, with room for the rest
            place = torch.arange(32)
            latest = LENGTH - KEEP + torch.arange(KEEP)[:, None]
            before = torch.nn.functional.pad(drawn.first[:, :-1], (1, 0), value=-1)
            out = (place <= before[..., None]) | (place > latest)
            out[:, 0] = place != 0
            logit = logit.masked_fill(out, -torch.inf)
        assert logit.argmax(dim=2).equal(value)


@torch.no_grad()
def test_a_code_is_drawn_knowing_its_place() -> None:
    model, batch = make('random'), batch_of()
    token = model.tokens(batch.index, batch.group)
    order = torch.arange(KEEP).expand(4, -1)
    places = in_order(model.places(batch.group, KEEP), order)
    logits = model.logits(token, LABELS, places)
    moved = model.logits(token ^ 1, LABELS, places)  # another place, the same code
    assert_close(logits[0][:, 0], moved[0][:, 0])
    assert not torch.allclose(logits[1][:, 0], moved[1][:, 0])


# --------------------------------------------------------------------- bad input


def test_the_raster_has_no_first_places_to_draw() -> None:
    with pytest.raises(
        ValueError, match="first_places=True has no meaning.*'distinct'"
    ):
        tiny.make(MergeAR, keep=KEEP, first_places=True)


def test_places_cannot_be_known_and_drawn() -> None:
    with pytest.raises(ValueError, match="positions='raster'.*positions='rank'"):
        make('random', positions='raster')


def test_tokens_with_places_are_no_copies() -> None:
    with pytest.raises(ValueError, match='speculative=2.*leave it out'):
        make('distinct').sample_codes(LABELS, KEEP, SEEDS, speculative=2)
