"""Occupancy of the caches over the steps, against a count by hand."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.append(str(Path(__file__).parents[1] / 'test_models' / 'test_generators'))

import tiny_mergear as tiny

from mergevq_mm.models.generators import MergeAR
from mergevq_mm.visualization import cache_figure, trace_cache

LABELS, KEEP, WINDOW = torch.tensor([1, 4, 9]), 4, 3


@pytest.mark.parametrize('guidance', [1.0, 2.0])
def test_occupancy_by_hand(guidance: float) -> None:
    length = 60
    model = tiny.make(
        MergeAR,
        window=WINDOW,
        tokenizer=dict(grid=(10, 6)),
        class_dropout=0.1,
    )
    options = dict(temperature=0.3, guidance=guidance)
    full = trace_cache(model, LABELS, KEEP, [5, 6, 7], 'full', **options)
    small = trace_cache(model, LABELS, KEEP, [5, 6, 7], 'compressed', **options)
    drawn = model.sample_codes(LABELS, KEEP, [5, 6, 7], cache='compressed', **options)
    assert torch.equal(full.index, drawn.index)
    assert torch.equal(small.index, drawn.index)
    places = torch.arange(length) + model.prefix
    assert torch.equal(full.occupied, places[:, None].expand(-1, 3))
    for sample, codes in enumerate(small.index.tolist()):
        for token in range(length):
            known = codes[:token]
            first = {code: known.index(code) for code in set(known)}
            recent = range(max(0, token - WINDOW), token)
            repeats = [t for t in recent if first[known[t]] != t]
            found = int(small.occupied[token, sample]) - model.prefix
            assert found == len(first) + len(repeats)
    assert torch.equal(small.occupied[-1], drawn.stats['occupied'])
    layers, dims = tiny.LAYERS, tiny.DIMS
    assert full.slot_bytes == small.slot_bytes == 2 * layers * dims * 4


def test_figure_shows_means_and_ends() -> None:
    model = tiny.make(MergeAR, window=WINDOW, tokenizer=dict(grid=(10, 6)))
    traces = {
        cache: trace_cache(model, LABELS, KEEP, [1, 2, 3], cache, temperature=0.3)
        for cache in ('full', 'compressed')
    }
    (plot,) = cache_figure(traces).axes
    for line, trace in zip(plot.lines, traces.values(), strict=True):
        np.testing.assert_allclose(line.get_ydata(), trace.occupied.float().mean(1))
        end = float(trace.occupied[-1].float().mean())
        assert f'{end:.1f} slots' in line.get_label()
    with pytest.raises(ValueError, match='traces is empty'):
        cache_figure({})
