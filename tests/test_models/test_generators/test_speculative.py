"""Speculative decoding: the very same codes, in fewer passes."""

from __future__ import annotations

from typing import Any

import pytest
import tiny_mergear as tiny
import torch
from tiny_mergear import LENGTH
from torch import Tensor

from mergevq_mm.models.generators import MergeAR
from mergevq_mm.models.generators.host_copy import HostCopy
from mergevq_mm.models.generators.raster_decoding import RasterDecoding
from mergevq_mm.models.generators.speculative import (
    LAG,
    decode_speculatively,
    guess_next,
)

LABELS, SEEDS = torch.tensor([1, 4, 9, 0]), [5, 6, 7, 8]
WAYS = {
    'greedy': dict(temperature=0.0),
    'sampled': dict(temperature=0.1, top_p=0.95),
    'guided': dict(temperature=0.1, guidance=1.5, guidance_schedule='linear'),
    'restricted': dict(temperature=0.8, restrict=True),
}


def make(window: int | None = 2, keep: int = 4) -> MergeAR:
    """A generator that repeats itself now and then: few values of the first part."""
    model = tiny.make(MergeAR, window=window, keep=keep)
    model.head.heads[0].weight.data[2:] *= 0.2
    model.head.heads[1].weight.data *= 3
    return model


@pytest.mark.parametrize('way', WAYS)
@pytest.mark.parametrize('cache', ['full', 'compressed'])
@pytest.mark.parametrize('window', [2, None])
def test_the_same_codes(way: str, cache: str, window: int | None) -> None:
    model, options = make(window), WAYS[way]
    plain = model.sample_codes(LABELS, 4, SEEDS, cache=cache, **options)
    assert (plain.stats['passes'] == LENGTH).all()
    for drafts in range(1, 7) if window else (1, 4):
        fast = model.sample_codes(
            LABELS, 4, SEEDS, cache=cache, speculative=drafts, **options
        )
        assert torch.equal(fast.index, plain.index)
        # The prefix's pass draws one code, each other one 1 + drafts at most.
        assert (fast.stats['passes'] >= 1 + (LENGTH - 1) / (1 + drafts)).all()
        if drafts >= 3:
            assert fast.stats['passes'].float().mean() < LENGTH
        assert fast.stats['distinct'].equal(plain.stats['distinct'])


@pytest.mark.parametrize('drafts', [1, 3, 6])
def test_codes_that_never_repeat(drafts: int) -> None:
    """Then every guess is wrong, and a pass draws one code."""
    model = tiny.make(MergeAR, window=2)
    model.head.heads[1].weight.data *= 0.01  # nearly uniform
    plain = model.sample_codes(LABELS, 4, SEEDS)
    fast = model.sample_codes(LABELS, 4, SEEDS, speculative=drafts)
    assert torch.equal(fast.index, plain.index)
    assert fast.stats['passes'].min() > 0.8 * LENGTH


@pytest.mark.parametrize('drafts', [1, 2, 5])
def test_one_code_alone_takes_the_fewest_passes(drafts: int) -> None:
    model = make(keep=1)
    fast = model.sample_codes(LABELS, 1, SEEDS, restrict=True, speculative=drafts)
    assert (fast.index == fast.index[:, :1]).all()
    assert (fast.stats['passes'] == 1 - (-(LENGTH - 1) // (1 + drafts))).all()
    assert (fast.stats['distinct'] == 1).all()


def test_repetitive_sequences_need_fewer_passes() -> None:
    model = make()
    few = model.sample_codes(LABELS, 4, SEEDS, speculative=4, **WAYS['restricted'])
    assert few.stats['passes'].float().mean() < 0.8 * LENGTH


def test_samples_run_at_their_own_speed() -> None:
    model, options = make(), dict(temperature=0.7, speculative=3)
    together = model.sample_codes(LABELS, 4, SEEDS, **options)
    assert len(set(together.stats['passes'].tolist())) > 1
    for i in range(len(LABELS)):
        alone = model.sample_codes(LABELS[i : i + 1], 4, SEEDS[i : i + 1], **options)
        assert torch.equal(alone.index[0], together.index[i])
        assert alone.stats['passes'][0] == together.stats['passes'][i]


@pytest.mark.parametrize('drafts', [1, 4])
def test_the_distinct_codes_alone(drafts: int) -> None:
    model = tiny.make(MergeAR, keep=12, sequence='distinct')
    plain = model.sample_codes(LABELS, 12, SEEDS)
    fast = model.sample_codes(LABELS, 12, SEEDS, speculative=drafts)
    assert plain.index.shape == (4, 12) and torch.equal(fast.index, plain.index)


@pytest.mark.parametrize('way', ['sampled', 'restricted'])
def test_a_host_that_hears_late(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Passes after the last one change nothing, nor do sizes that are upper bounds."""
    model, runs = make(), []
    advance = RasterDecoding.advance

    def counted(self: RasterDecoding, *args: Any) -> Tensor:
        runs[-1] += 1
        return advance(self, *args)

    monkeypatch.setattr(RasterDecoding, 'advance', counted)
    drawn = []
    for ready in (True, False):
        monkeypatch.setattr(HostCopy, 'ready', ready)
        runs.append(0)
        drawn.append(model.sample_codes(LABELS, 4, SEEDS, speculative=3, **WAYS[way]))
    soon, late = drawn
    assert torch.equal(late.index, soon.index)
    for name in ('passes', 'distinct', 'occupied'):
        assert late.stats[name].equal(soon.stats[name]), name
    assert runs[0] == soon.stats['passes'].max() - 1  # the first is the prefix's
    assert runs[1] == runs[0] + LAG


def test_passes_do_not_wait() -> None:
    model = make()
    expected = model.sample_codes(LABELS, 4, SEEDS, speculative=3)
    decoding = model.start_decoding(LABELS, 4, SEEDS, speculative=3)
    prefix = model.embed_prefix(LABELS, 4)
    with torch.no_grad(), tiny.NoWaiting():
        index, passes = decode_speculatively(decoding, prefix)
    assert torch.equal(index, expected.index)
    assert passes.equal(expected.stats['passes'])


# ----------------------------------------------------------------------------- guesses


def slow_guess(drawn: list[int], done: int, number: int, columns: int) -> list[int]:
    best, best_score = 0, None
    for place in range(done):
        alike = 0
        while (
            alike < 3 and place >= alike and drawn[place - alike] == drawn[done - alike]
        ):
            alike += 1
        score = (alike, place == done - columns, place)
        if best_score is None or score > best_score:
            best, best_score = place, score
    period = max(done - best, 1)
    return [drawn[done - period + 1 + i % period] for i in range(number)]


@pytest.mark.parametrize('values', [1, 2, 3, 8])
def test_guesses_against_a_slow_loop(values: int) -> None:
    drawn: Tensor = torch.randint(values, (40, LENGTH))
    for number, columns in ((1, 5), (4, 5), (6, 7)):
        done = torch.randint(LENGTH, (40, 1))
        done[0] = 0
        guess = guess_next(drawn, done, number, columns)
        for b, row in enumerate(drawn.tolist()):
            assert guess[b].tolist() == slow_guess(row, int(done[b]), number, columns)
        # Nothing that has not been drawn yet is looked at.
        future = torch.arange(LENGTH) > done
        noise = torch.randint(values, drawn.shape)
        hidden = torch.where(future, noise, drawn)
        assert torch.equal(guess_next(hidden, done, number, columns), guess)
