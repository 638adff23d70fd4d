"""All passes of RandAR as one CUDA graph: the same codes, batch after batch."""

from __future__ import annotations

from typing import Any

import pytest
import tiny_mergear as tiny
import torch
from graph_stand_in import StandIn

from mergevq_mm.models.generators import RandAR, randar

LABELS, SEEDS, KEEP = torch.tensor([1, 4, 9, 0]), [5, 6, 7, 8], 9


def make(**cfg: Any) -> RandAR:
    return tiny.make(RandAR, keep=KEEP, **cfg)


@pytest.mark.parametrize(
    'options',
    [dict(guidance=(1.5, 2.0), temperature=0.7), dict(top_p=0.9, first_places=True)],
)
def test_all_passes_are_one_graph(
    options: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Captured with the second batch of a kind, and the same codes in each."""
    monkeypatch.setattr(randar, 'check_step', lambda step, device: None)
    graphs = StandIn().take_place(monkeypatch)
    options = dict(options)
    model = make(first_places=options.pop('first_places', False))
    found = []
    for turn, labels in enumerate((LABELS, LABELS.roll(1), LABELS.roll(2))):
        seeds = [seed + turn for seed in SEEDS]
        options.update(num_steps=4, guidance_schedule='linear')
        if turn == 2 and 'guidance' in options:
            options['guidance'] = 3.0  # a stronger one is no other kind
        drawn = model.sample_codes(labels, KEEP, seeds, step='graph', **options)
        expected = model.sample_codes(labels, KEEP, seeds, **options)
        found.append((drawn, expected))
        assert graphs.captures == (turn > 0)
    for drawn, expected in found:
        assert torch.equal(drawn.index, expected.index)
        assert drawn.first is expected.first is None or torch.equal(
            drawn.first, expected.first
        )
    assert graphs.replays == 2
    for more in (dict(num_steps=3), dict(guidance=1.0), dict(temperature=2.0)):
        changed = {**options, **more}
        drawn = model.sample_codes(LABELS, KEEP, SEEDS, step='graph', **changed)
        expected = model.sample_codes(LABELS, KEEP, SEEDS, **changed)
        assert torch.equal(drawn.index, expected.index)
    assert graphs.replays == 2 + ('guidance' not in options)  # it had none before


def test_graphs_need_a_gpu() -> None:
    options = dict(num_steps=4)
    with pytest.raises(ValueError, match="step='graph' captures a CUDA graph, but"):
        make().sample_codes(LABELS, KEEP, SEEDS, step='graph', **options)
    with pytest.raises(ValueError, match="step='compile' is not for RandAR, whose"):
        make().sample_codes(LABELS, KEEP, SEEDS, step='compile', **options)


@pytest.mark.gpu
@pytest.mark.parametrize('device', ['cuda:0', 'cuda:1'])
@pytest.mark.parametrize('first_places', [False, True])
def test_batches_through_one_graph_on_a_gpu(first_places: bool, device: str) -> None:
    if torch.device(device).index >= torch.cuda.device_count():
        pytest.skip('there is one GPU')
    model = make(first_places=first_places).to(device)
    options = dict(num_steps=4, guidance=(1.5,) * len(model.head.split))
    for labels in (LABELS, LABELS.roll(1), LABELS.roll(2)):
        labels = labels.to(device)
        drawn = model.sample_codes(labels, KEEP, SEEDS, step='graph', **options)
        expected = model.sample_codes(labels, KEEP, SEEDS, **options)
        assert torch.equal(drawn.index, expected.index)
    (recording,) = model.decode_anew.recordings.values()
    assert recording is not None
