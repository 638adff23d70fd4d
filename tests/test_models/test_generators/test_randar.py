"""RandAR: teacher forcing equals parallel decoding, orders, guidance, batches."""

from __future__ import annotations

from typing import Any

import pytest
import tiny_mergear as tiny
import torch
from tiny_mergear import GRID, LENGTH, SPLIT, NoWaiting
from torch import Tensor
from torch.testing import assert_close

from mergevq_mm.models.generators import CodeBatch, RandAR
from mergevq_mm.models.generators.random_order import (
    ParallelDecoding,
    decode_parallel,
    in_order,
    parallel_schedule,
)
from mergevq_mm.models.generators.rotary import rank_positions
from mergevq_mm.models.generators.sampling import draw, filter_logits
from mergevq_mm.models.quantizers.lfq_functional import join_index, split_index

LABELS, SEEDS, KEEP = torch.tensor([1, 4, 9, 0]), [5, 6, 7, 8], 9
POSITIONS = ('rank', 'raster')


def make(**cfg: Any) -> RandAR:
    return tiny.make(RandAR, keep=KEEP, **cfg)


def decoding_of(
    model: RandAR, steps: int, **options: Any
) -> tuple[ParallelDecoding, Tensor, list[int]]:
    """Decoding, prefix and schedule as ``sample_codes`` makes them."""
    schedule = parallel_schedule(KEEP, steps)
    decoding = model.start_decoding(LABELS, KEEP, SEEDS, schedule, **options)
    labels = model.guided_labels(LABELS, decoding.rule)
    return decoding, model.embed_prefix(labels, KEEP), schedule


def places_in_order(model: RandAR, decoding: ParallelDecoding) -> Tensor:
    """Places of the slots in the order of drawing, found again by their factors."""
    columns = GRID[1] if model.positions == 'raster' else 3
    rows = GRID[0] if model.positions == 'raster' else 3
    table = torch.tensor([[r, c] for r in range(rows) for c in range(columns)])
    factors = model.factors(table[None])[0, model.prefix :]
    wanted = decoding.network.factors[:, model.prefix :]
    same = (wanted[:, :, None] == factors).flatten(3).all(dim=3)
    assert (same.sum(dim=2) == 1).all()
    return table[same.int().argmax(dim=2)]


# ------------------------------------------------- teacher forcing, parallel decoding


@pytest.mark.parametrize('positions', POSITIONS)
@pytest.mark.parametrize('steps', [1, 4, KEEP])
@torch.no_grad()
def test_parallel_logits_are_the_teacher_forced_ones(
    positions: str, steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given the same finished pairs, whichever instruction is the next one."""
    model = make(positions=positions)
    contexts: list[Tensor] = []
    real = ParallelDecoding.draw

    def spy(self, context, first, last):
        contexts.append(context)
        return real(self, context, first, last)

    monkeypatch.setattr(ParallelDecoding, 'draw', spy)
    decoding, prefix, schedule = decoding_of(model, steps)
    decode_parallel(decoding, prefix, schedule)
    assert [c.shape[1] for c in contexts] == schedule
    index = in_order(decoding.index, decoding.order)
    places = places_in_order(model, decoding)
    done = 0
    for context, number in zip(contexts, schedule, strict=True):
        asked = index[:, done : done + number]
        ours = model.head(context, asked, model.embedding)
        for i in range(number):
            # This instruction next, the others of the step after it.
            turn = [*range(done), done + i]
            turn += [n for n in range(KEEP) if n not in turn]
            forced = model.logits(index[:, turn], LABELS, places[:, turn])
            for mine, theirs in zip(ours, forced, strict=True):
                assert_close(mine[:, i], theirs[:, done], rtol=1e-5, atol=1e-5)
        done += number
    assert done == KEEP


@torch.no_grad()
def slow_samples(model: RandAR, steps: int, guidance: float, **options: Any) -> Tensor:
    """No cache: a full forward pass of each sample for each slot and part."""
    decoding, *_, schedule = decoding_of(model, steps)
    places = places_in_order(model, decoding)
    result = torch.zeros(len(LABELS), KEEP, dtype=torch.int64)
    for b, label in enumerate(LABELS):
        both = torch.stack([label, torch.tensor(model.num_classes)])
        index = torch.zeros(2, KEEP, dtype=torch.int64)
        done = 0
        for number in schedule:
            drawn = []
            for i in range(number):
                turn = [*range(done), done + i]
                turn += [n for n in range(KEEP) if n not in turn]
                scale = 1 + (guidance - 1) * (done + i) / (KEEP - 1)
                slot = decoding.order[b, done + i]
                known, values = index[:, turn], []
                for part in range(len(SPLIT)):
                    where = places[b : b + 1, turn].expand(2, -1, -1)
                    logits = model.logits(known, both, where)[part][:, done]
                    logits = logits[1] + scale * (logits[0] - logits[1])
                    logits = filter_logits(logits, **options)
                    values.append(draw(logits, decoding.noise[b, slot, part]))
                    parts = [*values, torch.zeros_like(values[0])][: len(SPLIT)]
                    known[:, done] = join_index(parts, SPLIT)
                drawn.append(known[:, done])
                result[b, slot] = known[0, done]
            index[:, done : done + number] = torch.stack(drawn, dim=1)
            done += number
    return result


@pytest.mark.parametrize('positions', POSITIONS)
def test_samples_of_a_loop_without_cache(positions: str) -> None:
    model, options = make(positions=positions), dict(temperature=0.8, top_k=20)
    for guidance in (1.0, 1.7):
        drawn = model.sample_codes(
            LABELS,
            KEEP,
            SEEDS,
            num_steps=4,
            guidance=guidance,
            guidance_schedule='linear',
            **options,
        )
        expected = slow_samples(model, 4, guidance, **options)
        assert torch.equal(drawn.index, expected)


# ------------------------------------------------------------------------------ drawing


@pytest.mark.parametrize('positions', POSITIONS)
def test_each_slot_is_drawn_once(positions: str) -> None:
    model = make(positions=positions)
    for steps in (1, 4, 88):
        decoding, prefix, schedule = decoding_of(model, steps)
        slots = decoding.order.sort(dim=1).values
        assert slots.tolist() == [list(range(KEEP))] * len(LABELS)
        assert len({tuple(row) for row in decoding.order.tolist()}) == len(LABELS)
        decoding.index.fill_(-1)
        with torch.no_grad():
            assert (decode_parallel(decoding, prefix, schedule) >= 0).all()
        places = places_in_order(model, decoding).tolist()
        seen = set()
        for order, where in zip(decoding.order.tolist(), places, strict=True):
            by_slot = [place for _, place in sorted(zip(order, where, strict=True))]
            if positions == 'rank':
                assert by_slot == rank_positions(KEEP).tolist()
            else:  # increasing in the raster, from its first position on
                raster = [row * GRID[1] + column for row, column in by_slot]
                assert raster[0] == 0 and sorted(set(raster)) == raster
            seen.add(tuple(map(tuple, by_slot)))
        # Ranks are the same in all samples, drawn positions each sample's own.
        assert len(seen) == (1 if positions == 'rank' else len(LABELS))


@pytest.mark.parametrize('positions', POSITIONS)
@pytest.mark.parametrize(
    'options', [{}, dict(guidance=(1.5, 2.0), guidance_schedule='linear', top_p=0.9)]
)
def test_a_batch_is_its_samples(options: dict, positions: str) -> None:
    model = make(positions=positions)
    together = model.sample_codes(LABELS, KEEP, SEEDS, num_steps=4, **options)
    for i in range(len(LABELS)):
        alone = model.sample_codes(
            LABELS[i : i + 1], KEEP, SEEDS[i : i + 1], num_steps=4, **options
        )
        assert torch.equal(alone.index[0], together.index[i])


def test_seeds_and_inputs_matter() -> None:
    model = make()
    base = model.sample_codes(LABELS, KEEP, SEEDS, num_steps=4).index
    torch.rand(7)  # the global stream does not
    again = model.sample_codes(LABELS, KEEP, SEEDS, num_steps=4).index
    assert torch.equal(again, base)
    for labels, keep, seeds, options in (
        (LABELS, KEEP, [s + 1 for s in SEEDS], {}),
        (LABELS.roll(1), KEEP, SEEDS, {}),
        (LABELS, KEEP, SEEDS, dict(guidance=3.0)),
    ):
        other = model.sample_codes(labels, keep, seeds, num_steps=4, **options).index
        assert (other != base).any(dim=1).all()
    law = dict(step_schedule='arccos')  # 1, 2, 2, 4 instead of 1, 2, 3, 3
    other = model.sample_codes(LABELS, KEEP, SEEDS, num_steps=4, **law).index
    assert (other != base).any()
    more = model.sample_codes(LABELS, KEEP + 3, SEEDS)
    assert more.index.shape == (4, KEEP + 3) and more.keep == KEEP + 3


def test_the_order_of_the_seeds_is_uniform() -> None:
    model, counts = make(), torch.zeros(KEEP, KEEP)
    labels = torch.zeros(900, dtype=torch.int64)
    decoding = model.start_decoding(labels, KEEP, range(900), [KEEP])
    for place in range(KEEP):
        counts[place] = torch.bincount(decoding.order[:, place], minlength=KEEP)
    assert counts.min() > 60 and counts.max() < 145  # 100 expected, deviation 9.4


def test_statistics_and_memory() -> None:
    model = make()
    for steps, guidance in ((4, 1.0), (KEEP, 1.5)):
        schedule = parallel_schedule(KEEP, steps)
        drawn = model.sample_codes(
            LABELS, KEEP, SEEDS, num_steps=steps, guidance=guidance
        )
        assert not drawn.complete and drawn.keep == KEEP
        slots = model.prefix + 2 * KEEP - schedule[-1]
        slot = 2 * tiny.LAYERS * tiny.DIMS * 4 * (2 if guidance != 1 else 1)
        assert drawn.stats['passes'].tolist() == [len(schedule)] * 4
        assert drawn.stats['cache_slots'].tolist() == [slots] * 4
        assert drawn.stats['occupied'].tolist() == [slots] * 4
        assert drawn.stats['cache_bytes'].tolist() == [slots * slot] * 4
        distinct = [len(set(row)) for row in drawn.index.tolist()]
        assert drawn.stats['distinct'].tolist() == distinct


@pytest.mark.parametrize('options', [{}, dict(guidance=1.5, top_p=0.9, top_k=7)])
def test_nothing_waits_and_every_slot_is_used(options: dict) -> None:
    model = make()
    decoding, prefix, schedule = decoding_of(model, 4, **options)
    with torch.no_grad(), NoWaiting():
        decode_parallel(decoding, prefix, schedule)
    used = torch.stack(decoding.store.rooms)[:, 1].abs().sum(dim=(0, 2, 4)) > 0
    assert used.all()
    drawn = model.sample_codes(LABELS, KEEP, SEEDS, num_steps=4, **options)
    assert torch.equal(decoding.index, drawn.index)


def test_greedy_codes_do_not_depend_on_the_noise() -> None:
    """One by one in a given order; another seed is another order only."""
    model = make()
    decoding, prefix, schedule = decoding_of(model, KEEP, temperature=0.0)
    other, *_ = decoding_of(model, KEEP, temperature=0.0)
    other.noise = 1 - other.noise
    with torch.no_grad():
        first = decode_parallel(decoding, prefix, schedule)
        assert torch.equal(decode_parallel(other, prefix, schedule), first)


# ----------------------------------------------------------------------------- training


def code_batch() -> CodeBatch:
    group = torch.randint(KEEP, (3, LENGTH)).sort(dim=1).values
    group[:, :KEEP] = torch.arange(KEEP)
    index = torch.randint(tiny.VOCABULARY, (3, KEEP))
    return CodeBatch(index, group[:, torch.randperm(LENGTH)], LABELS[:3], GRID)


@pytest.mark.parametrize('positions', POSITIONS)
@torch.no_grad()
def test_loss_is_the_mean_over_the_slots(positions: str) -> None:
    model, batch = make(positions=positions), code_batch()
    torch.manual_seed(3)
    losses = model.loss_codes(batch)
    torch.manual_seed(3)
    orders = torch.rand(3, KEEP).argsort(dim=1)
    assert sorted(orders[0].tolist()) == list(range(KEEP))
    sums = [0.0, 0.0]
    for b in range(3):
        order = orders[b]
        if positions == 'rank':
            places = rank_positions(KEEP)
        else:
            firsts = [batch.group[b].tolist().index(slot) for slot in range(KEEP)]
            places = torch.tensor([[f // GRID[1], f % GRID[1]] for f in firsts])
        index = batch.index[b, order][None]
        logits = model.logits(index, batch.labels[b : b + 1], places[order][None])
        for part, values in enumerate(split_index(index, SPLIT)):
            log = logits[part].log_softmax(dim=-1)
            sums[part] -= log.gather(2, values.unsqueeze(-1)).sum().item()
    for total, name in zip(sums, ('loss_pre', 'loss_post'), strict=True):
        assert losses[name].item() == pytest.approx(total / (3 * KEEP), rel=1e-5)
    assert model.loss_codes(batch)['loss_pre'] != losses['loss_pre']  # another order


@torch.no_grad()
def test_what_a_prediction_depends_on() -> None:
    model = make()
    index = torch.randint(tiny.VOCABULARY, (1, KEEP))
    places = rank_positions(KEEP)[None]
    labels = LABELS[:1]

    def moved(index_: Tensor = index, places_: Tensor = places, labels_=labels):
        before = model.logits(index, labels, places)[0]
        change = (model.logits(index_, labels_, places_)[0] - before)[0].abs()
        return (change.amax(dim=1) > 1e-4).nonzero().flatten().tolist()

    other = index.clone()
    other[0, 3] = 255 - other[0, 3]
    assert moved(index_=other) == list(range(4, KEEP))  # a code: those after it
    elsewhere = places.clone()
    elsewhere[0, 3] = torch.tensor([7, 7])
    assert moved(places_=elsewhere) == list(range(3, KEEP))  # its place: its own too
    assert moved(labels_=labels + 1) == list(range(KEEP))


@torch.no_grad()
def test_one_finished_pair_more_changes_the_next_predictions() -> None:
    """Drawing two at once is not drawing one after the other."""
    model = make()
    index = torch.randint(tiny.VOCABULARY, (1, KEEP))
    places = rank_positions(KEEP)[None]
    turn = [1, 0, *range(2, KEEP)]
    first = model.logits(index, LABELS[:1], places)[0][0]
    swapped = model.logits(index[:, turn], LABELS[:1], places[:, turn])[0][0]
    assert (first[1] - swapped[0]).abs().max() > 1e-3


# ---------------------------------------------------------------------------- bad input


def test_bad_configs_and_options() -> None:
    with pytest.raises(ValueError, match="positions='grid' is not known; .* rank, ras"):
        make(positions='grid')
    with pytest.raises(ValueError, match='tokenizer does not predict the source map'):
        make(tokenizer=dict(learned_recovery=False))
    model = make()
    for options, message in (
        (dict(num_steps=0), 'num_steps=0 is no whole number of at least 1'),
        (dict(step_schedule='x'), "step_schedule='x' is not known; choose one of cos"),
        (dict(cache='full'), 'cache=full is an option of raster generation; leave it'),
        (dict(speculative=2), 'speculative=2'),
        (dict(restrict=True), 'restrict=True'),
        (dict(temperature=-1.0), 'temperature=-1.0'),
    ):
        with pytest.raises(ValueError, match=message):
            model.sample_codes(LABELS, KEEP, SEEDS, **options)
