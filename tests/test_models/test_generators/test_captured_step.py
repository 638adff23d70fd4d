"""Graphs that live across batches: static memory, few captures, the same codes."""

from __future__ import annotations

import copy
import gc
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import tiny_mergear as tiny
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from mergevq_mm.models.generators import MergeAR, captured_step, mergear
from mergevq_mm.models.generators.captured_step import rounded_read
from mergevq_mm.models.generators.decoding_step import make_step
from mergevq_mm.models.generators.editing import KnownCodes
from mergevq_mm.models.generators.raster_decoding import decode_raster
from mergevq_mm.models.utils.cuda_graphs import DeviceGraphs

LABELS, SEEDS = torch.tensor([1, 4, 9, 0]), [5, 6, 7, 8]
GUIDED = dict(temperature=0.7, guidance=(1.5, 2.0))


class Places(TorchDispatchMode):
    """Where in memory the tensors stand that work did not make itself."""

    def __init__(self) -> None:
        super().__init__()
        self.given: set[int] = set()
        self.made: list[Tensor] = []  # kept, so that no place is used twice

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        own = {tensor.untyped_storage().data_ptr() for tensor in self.made}
        for value in torch.utils._pytree.tree_leaves((args, kwargs)):
            if isinstance(value, Tensor) and value.dim():  # numbers are constants
                place = value.untyped_storage().data_ptr()
                if place not in own:
                    self.given.add(place)
        out = func(*args, **(kwargs or {}))
        for value in torch.utils._pytree.tree_leaves(out):
            if isinstance(value, Tensor):
                if value.untyped_storage().data_ptr() not in self.given:
                    self.made.append(value)
        return out


class StandIn:
    """Runs work again, where a graph would; refuses if memory is elsewhere by then."""

    def __init__(self) -> None:
        self.captures = self.runs = self.waits = 0

    def warm_up(self, work: Callable[[], None]) -> None:
        self.runs += 1
        work()

    def capture(self, work: partial) -> Callable[[], None]:
        self.captures += 1
        known: list[set[int]] = []
        # A graph knows the memory of its batch, but does not keep the batch itself.
        step, (read,) = copy.copy(work.func.__self__), work.args
        step.decoding = copy.copy(step.decoding)
        step.run = partial(step.run.func, step.decoding)

        def replay() -> None:
            with Places() as places:
                step.work(read)
            known.append(places.given)
            assert known[0] == known[-1], 'a graph would use memory of another batch'

        return replay

    def wait(self) -> None:
        self.waits += 1


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> StandIn:
    stand_in = StandIn()
    monkeypatch.setattr(captured_step, 'graphs_of', lambda device: stand_in)
    return stand_in


@torch.no_grad()
def draw(
    model: MergeAR, labels: Tensor, seeds: list[int], keep: int = 4, **options: Any
) -> tuple[Tensor, Any]:
    """Codes by captured steps, and the cache that was used."""
    decoding = model.start_decoding(labels, keep, seeds, **options)
    prefix = model.embed_prefix(model.guided_labels(labels, decoding.rule), keep)
    step = make_step('graph', decoding)
    return decode_raster(decoding, prefix, step), decoding.cache


@pytest.mark.parametrize('options', [GUIDED, dict(restrict=True, top_p=0.9)])
@pytest.mark.parametrize('cache', ['full', 'compressed'])
def test_batches_share_their_graphs(cache: str, options: dict, graphs: StandIn) -> None:
    model = tiny.make(MergeAR, keep=9, candidates=[9, 4])
    first, seen = None, []
    for labels, seeds in ((LABELS, SEEDS), (LABELS.roll(1), [1, 2, 3, 4])):
        expected = model.sample_codes(labels, 9, seeds, cache=cache, **options)
        index, _ = draw(model, labels, seeds, 9, cache=cache, **options)
        assert torch.equal(index, expected.index)
        first = index if first is None else first
        seen.append(graphs.captures)
        # How much of a compressed cache is read depends on what is drawn.
        most = captured_step.SIZES * (1 + graphs.waits)  # more slots, other graphs
        assert 1 <= graphs.captures <= graphs.runs <= most
    assert cache == 'compressed' or seen[0] == seen[1] == graphs.runs
    again = model.sample_codes(LABELS, 9, SEEDS, cache=cache, **options).index
    assert torch.equal(first, again)  # nobody wrote over what was returned


def test_inferencers_and_loops_draw_from_one_model(graphs: StandIn) -> None:
    """The ones under inference_mode, whose tensors the others may not change."""
    model = tiny.make(MergeAR, keep=9, candidates=[9, 4])
    with torch.inference_mode():
        first, _ = draw(model, LABELS, SEEDS, 9)
    again, _ = draw(model, LABELS, SEEDS, 9)
    assert torch.equal(again, first)


@pytest.mark.parametrize('options', [GUIDED, dict(restrict=True, top_p=0.9)])
@pytest.mark.parametrize('cache', ['full', 'compressed'])
def test_passes_of_drafts_are_graphs(
    cache: str, options: dict, graphs: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The codes of one token at a time, in the passes of the work as it is."""
    monkeypatch.setattr(mergear, 'check_step', lambda *arguments: None)
    model, seen = tiny.make(MergeAR, keep=9, candidates=[9, 4]), []
    for labels, seeds in ((LABELS, SEEDS), (LABELS.roll(1), [1, 2, 3, 4])):
        sample = partial(model.sample_codes, labels, 9, seeds, cache=cache, **options)
        plain, eager = sample(), sample(speculative=3)
        drawn = sample(speculative=3, step='graph')
        seen.append((drawn.index, plain.index))
        for name in ('distinct', 'occupied', 'passes'):
            assert drawn.stats[name].equal(eager.stats[name]), name
        most = captured_step.SIZES * (1 + graphs.waits)
        assert 1 <= graphs.captures <= graphs.runs <= most
    for index, expected in seen:  # nobody wrote over what was returned
        assert torch.equal(index, expected)
    sample(speculative=2, step='graph')
    assert len(captured_step._memory[model.transformer]) == 2


def test_strength_of_guidance_needs_no_other_graph(graphs: StandIn) -> None:
    model = tiny.make(MergeAR)
    draw(model, LABELS, SEEDS, cache='full', guidance=2.0)
    captures = graphs.captures
    for guidance in (3.0, (1.5, 2.0)):
        options = dict(cache='full', guidance=guidance, guidance_schedule='linear')
        index, _ = draw(model, LABELS, SEEDS, **options)
        expected = model.sample_codes(LABELS, 4, SEEDS, **options)
        assert torch.equal(index, expected.index)
    assert graphs.captures == captures
    draw(model, LABELS, SEEDS, cache='full')  # one sequence a sample
    assert graphs.captures == 2 * captures


def test_first_places_are_drawn_in_static_memory(graphs: StandIn) -> None:
    """Also where an edit opens other places than the one before."""
    model = tiny.make(MergeAR, keep=9, sequence='distinct', first_places=True)
    place = torch.arange(tiny.LENGTH).expand(4, -1)
    known = KnownCodes(torch.arange(36).view(4, 9), place.clamp(max=8), place >= 0)
    for begin, seeds in ((3, SEEDS), (6, [1, 2, 3, 4])):
        # The last place is not drawn: room for the groups ends before it.
        free = (place >= begin) & (place < tiny.LENGTH - begin)
        part = known._replace(
            free=free, group=place.clamp(max=8).where(free, place % 3)
        )
        options = dict(guidance=1.5, known=part)
        expected = model.sample_codes(LABELS, 9, seeds, **options)
        token, _ = draw(model, LABELS, seeds, 9, cache='full', **options)
        index, first = model.codes(token)
        assert torch.equal(index, expected.index)
        assert torch.equal(first, expected.first)
        assert first[:, 3:].max() < tiny.LENGTH - begin
    assert graphs.captures <= captured_step.SIZES


def test_autocast_leaves_no_copies_that_a_graph_would_read(graphs: StandIn) -> None:
    """It frees its copies of the weights at the end of each batch."""
    model = tiny.make(MergeAR)
    for seeds in (SEEDS, [1, 2, 3, 4]):
        with torch.autocast('cpu', torch.bfloat16):
            index, _ = draw(model, LABELS, seeds, cache='full')
            expected = model.sample_codes(LABELS, 4, seeds, cache='full')
        assert torch.equal(index, expected.index)
    assert graphs.captures >= 1


def test_a_cache_that_has_grown_stays_so(graphs: StandIn) -> None:
    model = tiny.make(MergeAR, keep=1)
    expected = model.sample_codes(LABELS, 1, SEEDS)
    counts, slots = [], []
    for _ in range(3):
        index, cache = draw(model, LABELS, SEEDS, 1)
        assert torch.equal(index, expected.index)
        counts.append(graphs.captures), slots.append(cache.store.slots)
    assert slots == [2 + 2 + 30] * 3  # from 21
    assert graphs.waits == 1  # for graphs of the smaller one
    assert counts[2] == counts[1] <= 2 * captured_step.SIZES


def test_weights_that_moved_or_changed(graphs: StandIn) -> None:
    model = tiny.make(MergeAR)
    draw(model, LABELS, SEEDS, cache='full')
    captures = graphs.captures
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.data.mul_(0.9)  # in place: the graphs read the new values
    index, _ = draw(model, LABELS, SEEDS, cache='full')
    assert torch.equal(index, model.sample_codes(LABELS, 4, SEEDS).index)
    assert graphs.captures == captures
    model.load_state_dict(
        {k: v.clone() * 1.1 for k, v in model.state_dict().items()}, assign=True
    )
    index, _ = draw(model, LABELS, SEEDS, cache='full')
    assert torch.equal(index, model.sample_codes(LABELS, 4, SEEDS).index)
    assert graphs.captures == 2 * captures


@torch.no_grad()
def test_two_batches_at_once_have_memory_of_their_own(graphs: StandIn) -> None:
    model = tiny.make(MergeAR)
    expected = model.sample_codes(LABELS, 4, SEEDS).index
    both = [model.start_decoding(LABELS, 4, SEEDS) for _ in range(2)]
    steps = [make_step('graph', decoding) for decoding in both]
    assert steps[0].memory is not steps[1].memory
    for decoding, step in zip(both, steps, strict=True):
        prefix = model.embed_prefix(LABELS, 4)
        assert torch.equal(decode_raster(decoding, prefix, step), expected)


def test_few_kinds_are_kept_and_none_outlives_its_model(graphs: StandIn) -> None:
    model = tiny.make(MergeAR)
    for number in (1, 2, 3, 4, 5, 6):
        draw(model, torch.arange(number), list(range(number)))
    kinds = captured_step._memory[model.transformer]
    assert len(kinds) == captured_step.KINDS
    for each in kinds.values():
        each.replays.clear()  # of the stand-in, which knows the model
    memory = weakref.ref(each)
    del model, kinds, each
    gc.collect()
    assert memory() is None


def test_sizes_to_read() -> None:
    for slots in (18, 66, 258, 1026, 163):
        sizes = {rounded_read(read, slots) for read in range(1, slots + 1)}
        assert len(sizes) <= captured_step.SIZES and max(sizes) == slots
        assert all(
            read <= rounded_read(read, slots) < read + slots / 4 + 16
            for read in range(1, slots + 1)
        )


@pytest.mark.gpu
@pytest.mark.parametrize('device', ['cuda:0', 'cuda:1'])
@pytest.mark.parametrize(
    ('step', 'drafts'), [('graph', 0), ('graph', 3), ('compile-graph', 0)]
)
def test_batches_on_a_gpu(
    step: str, drafts: int, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Greedy where the step is compiled: it rounds otherwise."""
    if torch.device(device).index >= torch.cuda.device_count():
        pytest.skip('there is one GPU')
    made, capture = [], DeviceGraphs.capture

    def counted(self: DeviceGraphs, work: Callable[[], None]) -> Callable[[], None]:
        made.append(self.device)
        return capture(self, work)

    monkeypatch.setattr(DeviceGraphs, 'capture', counted)
    model, captures = tiny.make(MergeAR).to(device), []
    options = dict(temperature=0) if step == 'compile-graph' else dict(GUIDED)
    options['cache'] = 'full'  # whose reads do not depend on what is drawn
    for labels, seeds in ((LABELS, SEEDS), (LABELS.roll(1), [1, 2, 3, 4])):
        labels = labels.to(device)
        expected = model.sample_codes(labels, 4, seeds, **options)
        drawn = model.sample_codes(
            labels, 4, seeds, step=step, speculative=drafts, **options
        )
        assert torch.equal(drawn.index, expected.index)
        captures.append(len(made))
    assert 1 <= captures[0] <= captures[1] <= captured_step.SIZES
    assert drafts or captures[0] == captures[1]
    assert set(made) == {torch.device(device)}
