"""The token loop: seeds, batches, restriction, no waiting, compiled and captured."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import tiny_mergear as tiny
import torch
from tiny_mergear import LENGTH, SPLIT, NoWaiting
from torch import Tensor
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

from mergevq_mm.models.generators import MergeAR, RandAR, decoding_step
from mergevq_mm.models.generators.raster_decoding import (
    RasterDecoding,
    decode_raster,
    decode_step,
)
from mergevq_mm.models.generators.sampling import draw, filter_logits, uniform_noise
from mergevq_mm.models.generators.speculative import decode_speculatively
from mergevq_mm.models.quantizers.lfq_functional import join_index

LABELS, SEEDS = torch.tensor([1, 4, 9, 0]), [5, 6, 7, 8]
GUIDED = dict(temperature=0.7, guidance=(1.5, 2.0), guidance_schedule='linear')


# ------------------------------------------------------------------ the loop by itself


@torch.no_grad()
def slow_samples(model: MergeAR, keep: int, guidance: float, **options: Any) -> Tensor:
    """No cache: a full forward pass of each sample and each token and part."""
    rows = []
    for label, seed in zip(LABELS, SEEDS, strict=True):
        noise = uniform_noise([seed], (LENGTH, len(SPLIT)), 'cpu')[0]
        index = torch.zeros(2, LENGTH, dtype=torch.int64)
        both = torch.stack([label, torch.tensor(model.num_classes)])
        for token in range(LENGTH):
            values: list[Tensor] = []
            for part in range(len(SPLIT)):
                logits = model.logits(index, both, keep)[part][:, token]
                scale = 1 + (guidance - 1) * token / (LENGTH - 1)
                logits = logits[1] + scale * (logits[0] - logits[1])
                logits = filter_logits(logits, **options)
                values.append(draw(logits, noise[token, part]))
                known = [*values, torch.zeros_like(values[0])][: len(SPLIT)]
                index[:, token] = join_index(known, SPLIT)
        rows.append(index[0])
    return torch.stack(rows)


@pytest.mark.parametrize('guidance', [1.0, 1.7])
def test_samples_of_a_loop_without_cache(guidance: float) -> None:
    model, options = tiny.make(MergeAR), dict(temperature=0.8, top_k=20, top_p=0.9)
    expected = slow_samples(model, 4, guidance, **options)
    for cache in ('full', 'compressed'):
        drawn = model.sample_codes(
            LABELS,
            4,
            SEEDS,
            cache=cache,
            guidance=guidance,
            guidance_schedule='linear',
            **options,
        )
        assert torch.equal(drawn.index, expected)
        assert drawn.complete and drawn.keep == 4


@pytest.mark.parametrize('options', [{}, GUIDED, dict(restrict=True)])
@pytest.mark.parametrize('cache', ['full', 'compressed'])
def test_a_batch_is_its_samples(options: dict, cache: str) -> None:
    model = tiny.make(MergeAR)
    together = model.sample_codes(LABELS, 4, SEEDS, cache=cache, **options)
    for i in range(len(LABELS)):
        alone = model.sample_codes(
            LABELS[i : i + 1], 4, SEEDS[i : i + 1], cache=cache, **options
        )
        assert torch.equal(alone.index[0], together.index[i])
        assert alone.stats['distinct'][0] == together.stats['distinct'][i]


def test_seeds_and_inputs_matter() -> None:
    model = tiny.make(MergeAR)
    base = model.sample_codes(LABELS, 4, SEEDS).index
    torch.rand(7)  # the global stream does not
    assert torch.equal(model.sample_codes(LABELS, 4, SEEDS).index, base)
    others = {
        'seeds': model.sample_codes(LABELS, 4, [s + 1 for s in SEEDS]).index,
        'keep': model.sample_codes(LABELS, 7, SEEDS).index,
        'labels': model.sample_codes(LABELS.roll(1), 4, SEEDS).index,
        'guidance': model.sample_codes(LABELS, 4, SEEDS, guidance=2.0).index,
    }
    for name, index in others.items():
        assert (index != base).any(dim=1).all(), name


def test_no_guidance_is_the_guidance_of_one() -> None:
    model = tiny.make(MergeAR)
    base = model.sample_codes(LABELS, 4, SEEDS)
    one = model.sample_codes(LABELS, 4, SEEDS, guidance=(1.0, 1.0))
    assert torch.equal(one.index, base.index)
    assert one.stats['cache_bytes'].equal(base.stats['cache_bytes'])
    # Two sequences a sample, as good as alike, give the same and cost twice the memory.
    near = model.sample_codes(LABELS, 4, SEEDS, guidance=1.0 + 1e-9)
    assert torch.equal(near.index, base.index)
    assert near.stats['cache_bytes'].equal(2 * base.stats['cache_bytes'])


def test_statistics() -> None:
    model = tiny.make(MergeAR)
    drawn = model.sample_codes(LABELS, 4, SEEDS, cache='full')
    slot = 2 * tiny.LAYERS * tiny.DIMS * 4  # keys and values
    assert drawn.stats['cache_slots'].tolist() == [model.prefix + LENGTH] * 4
    assert drawn.stats['cache_bytes'].tolist() == [slot * (2 + LENGTH)] * 4
    assert drawn.stats['occupied'].tolist() == [2 + LENGTH - 1] * 4  # the last one ends
    distinct = [len(set(row[:-1])) for row in drawn.index.tolist()]
    assert all(
        0 <= d - e <= 1
        for d, e in zip(drawn.stats['distinct'].tolist(), distinct, strict=True)
    )
    small = model.sample_codes(LABELS, 4, SEEDS, restrict=True)
    assert (small.stats['occupied'] <= 2 + 2 + 4).all()
    assert (small.stats['cache_slots'] == 2 + 2 + 4).all()
    grown = model.sample_codes(LABELS, 4, SEEDS).stats
    small = 2 + 2 + 4 + 16  # slots at first, one block of 10 more at last
    assert (grown['cache_slots'] == small + 10).all()
    assert (grown['cache_bytes'] == slot * (small + 10)).all()
    twice = 2 * tiny.DIMS * 4 * small  # keys and values of one layer, old beside new
    assert (grown['cache_peak_bytes'] == slot * (small + 10) + twice).all()


# ------------------------------------------------------------------------- restriction


@pytest.mark.parametrize('keep', [1, 4, 7])
def test_restricted_samples_keep_to_k_codes(keep: int) -> None:
    model = tiny.make(MergeAR, keep=keep)
    free = model.sample_codes(LABELS, keep, SEEDS).index
    drawn = model.sample_codes(LABELS, keep, SEEDS, restrict=True)
    for b in range(len(LABELS)):
        codes = drawn.index[b].tolist()
        assert len(set(codes)) == keep == drawn.stats['distinct'][b]
        assert len(set(free[b].tolist())) > keep
        # Until there are K, nothing is different.
        full = next(i for i in range(LENGTH) if len(set(codes[: i + 1])) == keep)
        assert torch.equal(drawn.index[b, : full + 1], free[b, : full + 1])


@torch.no_grad()
def test_restriction_part_by_part() -> None:
    model = tiny.make(MergeAR)
    decoding = model.start_decoding(LABELS[:2], 4, SEEDS[:2], restrict=True)
    decoding.rule.restrict = 2
    decoding.cache.place_prefix()
    # Sample 0 knows (pre, post) = (1, 2) and (3, 4), sample 1 only (1, 2).
    codes = torch.tensor([[1 + 8 * 2, 3 + 8 * 4], [1 + 8 * 2, 1 + 8 * 2]])
    for i in range(2):
        step = torch.full((2, 1), 2 + i)
        decoding.cache.place(codes[:, i : i + 1], step, decoding.cache.reserve(2 + i))
    logits = torch.zeros(2, 1, 8), torch.zeros(2, 1, 32)
    pre = decoding.restricted(logits[0], 0, None)
    assert pre[0, 0].isfinite().nonzero().flatten().tolist() == [1, 3]
    assert pre[1].isfinite().all()
    for before, post in ((1, 2), (3, 4)):
        known = torch.tensor([[before], [0]])
        allowed = decoding.restricted(logits[1], 1, known)
        assert allowed[0, 0].isfinite().nonzero().flatten().tolist() == [post]
        assert allowed[1].isfinite().all()


# ----------------------------------------------------------------------------- waiting


def test_the_watchman_watches() -> None:
    x = torch.arange(4)
    for bad in (
        lambda: int(x.max()),
        lambda: x[x > 1],
        lambda: x[2].item(),
        lambda: bool(x.any()),
        lambda: torch.tensor([1]),
        lambda: x.masked_select(x > 1),
    ):
        with pytest.raises(AssertionError), NoWaiting():
            bad()
    with NoWaiting():
        x.cumsum(0), torch.where(x > 1, x, 0), x[1:3]


@contextmanager
def decoded_halfway(
    cache: str, **options: Any
) -> Iterator[tuple[RasterDecoding, tuple]]:
    """A decoding in the middle of its sequences, and what the next step gets."""
    model = tiny.make(MergeAR)
    decoding = model.start_decoding(LABELS, 4, SEEDS, cache, **options)
    labels = model.guided_labels(LABELS, decoding.rule)
    with torch.no_grad():
        token = torch.zeros_like(LABELS)[:, None]
        code = decoding.draw(decoding.start(model.embed_prefix(labels, 4)), token)
        for place in range(10):
            read = decoding.cache.reserve(model.prefix + place)
            code = decode_step(decoding, code, token, read)
        read = decoding.cache.reserve(model.prefix + 10)
        yield decoding, (code, token, read)


@pytest.mark.parametrize('options', [{}, GUIDED, dict(restrict=True, top_p=0.9)])
@pytest.mark.parametrize('cache', ['full', 'compressed'])
def test_a_step_does_not_wait(cache: str, options: dict) -> None:
    with decoded_halfway(cache, **options) as (decoding, step), NoWaiting():
        decode_step(decoding, *step)


@pytest.mark.parametrize('options', [{}, dict(restrict=True), GUIDED])
@pytest.mark.parametrize('cache', ['full', 'compressed'])
def test_the_loop_does_not_wait(cache: str, options: dict) -> None:
    """Nor where the cache has to grow: 4 codes and a block are not enough."""
    model = tiny.make(MergeAR)
    expected = model.sample_codes(LABELS, 4, SEEDS, cache, **options)
    decoding = model.start_decoding(LABELS, 4, SEEDS, cache, **options)
    prefix = model.embed_prefix(model.guided_labels(LABELS, decoding.rule), 4)
    with torch.no_grad(), NoWaiting():
        index = decode_raster(decoding, prefix)
    assert torch.equal(index, expected.index)


@pytest.mark.gpu
@pytest.mark.parametrize('speculative', [0, 3])
@pytest.mark.parametrize('cache', ['full', 'compressed'])
def test_a_device_is_never_waited_for(cache: str, speculative: int) -> None:
    model, labels = tiny.make(MergeAR).cuda(), LABELS.cuda()
    options = dict(cache=cache, speculative=speculative, **GUIDED)
    expected = model.sample_codes(labels, 4, SEEDS, **options).index
    decoding = model.start_decoding(labels, 4, SEEDS, **options)
    prefix = model.embed_prefix(model.guided_labels(labels, decoding.rule), 4)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode('error')
    try:
        with torch.no_grad():
            if speculative:
                index, _ = decode_speculatively(decoding, prefix)
            else:
                index = decode_raster(decoding, prefix)
    finally:
        torch.cuda.set_sync_debug_mode('default')
    assert torch.equal(index, expected)


def test_nothing_grows_in_the_loop() -> None:
    """Each step of the full cache makes tensors of the sizes of the step before."""
    sizes: list[set] = []

    class Sizes(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            if isinstance(out, Tensor):
                sizes[-1].add((func.name(), tuple(out.shape)))
            return out

    with decoded_halfway('compressed') as (decoding, (code, token, _)):
        for _ in range(4):
            sizes.append(set())
            with Sizes():
                code = decode_step(decoding, code, token, decoding.cache.store.slots)
    assert sizes[0] == sizes[1] == sizes[2] == sizes[3] and len(sizes[0]) > 20


# --------------------------------------------------------------- compiled and captured


class Compilations:
    """A compiler that counts what it is given, and runs it as it is."""

    def __init__(self) -> None:
        self.number = 0

    def __call__(self, graph: torch.fx.GraphModule, inputs: Any) -> Any:
        self.number += 1
        return graph.forward


@pytest.fixture
def compilations(monkeypatch: pytest.MonkeyPatch) -> Compilations:
    torch._dynamo.reset()
    backend = Compilations()
    monkeypatch.setattr(decoding_step, 'BACKEND', backend)
    return backend


@pytest.mark.parametrize('options', [dict(cache='full'), dict(restrict=True, **GUIDED)])
def test_the_step_compiles_to_one_graph(
    options: dict, compilations: Compilations
) -> None:
    model = tiny.make(MergeAR)
    expected = model.sample_codes(LABELS, 4, SEEDS, **options)
    drawn = model.sample_codes(LABELS, 4, SEEDS, step='compile', **options)
    assert torch.equal(drawn.index, expected.index)
    # One for a number of slots to read, at most one more for any number.
    assert 1 <= compilations.number <= 2
    before = compilations.number
    again = model.sample_codes(
        LABELS.roll(1), 4, [9, 8, 7, 6], step='compile', **options
    )
    eager = model.sample_codes(LABELS.roll(1), 4, [9, 8, 7, 6], **options)
    assert torch.equal(again.index, eager.index)
    assert compilations.number == before


def test_a_compiled_step_follows_a_cache_that_grows(
    compilations: Compilations,
) -> None:
    model = tiny.make(MergeAR, keep=1)
    expected = model.sample_codes(LABELS, 1, SEEDS)
    assert (expected.stats['cache_slots'] == 2 + 2 + LENGTH).all()  # from 2 + 2 + 17
    drawn = model.sample_codes(LABELS, 1, SEEDS, step='compile')
    assert torch.equal(drawn.index, expected.index)
    for name, values in drawn.stats.items():
        assert values.equal(expected.stats[name]), name
    assert (drawn.stats['cache_peak_bytes'] > drawn.stats['cache_bytes']).all()
    assert 2 <= compilations.number <= 4


def test_no_batch_has_a_graph_of_its_own(compilations: Compilations) -> None:
    model = tiny.make(MergeAR)
    draw = functools.partial(model.sample_codes, keep=4, step='compile', cache='full')
    for number in (4, 3, 1):
        draw(LABELS[:number], seeds=SEEDS[:number])
    before = compilations.number
    for number in (2, 6, 7):
        labels, seeds = torch.arange(number), range(number)
        drawn = draw(labels, seeds=seeds)
        expected = model.sample_codes(labels, 4, seeds, cache='full')
        assert torch.equal(drawn.index, expected.index)
    assert compilations.number == before


def test_more_graphs_than_allowed_end_in_eager_steps(
    compilations: Compilations, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One sample fits no graph of several, which go on being used."""
    monkeypatch.setattr(decoding_step, 'RECOMPILATIONS', 2)
    model = tiny.make(MergeAR)
    draw = functools.partial(model.sample_codes, keep=4, cache='full')
    several, one = (LABELS, SEEDS), (LABELS[:1], SEEDS[:1])
    draw(several[0], seeds=several[1], step='compile')
    with pytest.warns(RuntimeWarning, match="step='compile' has reached 2 graphs"):
        drawn = draw(one[0], seeds=one[1], step='compile', guidance=2.0)
    expected = draw(one[0], seeds=one[1], guidance=2.0)
    assert torch.equal(drawn.index, expected.index)
    assert torch.equal(drawn.stats['occupied'], expected.stats['occupied'])
    assert compilations.number == 2
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        draw(several[0], seeds=several[1], step='compile')


@pytest.mark.slow
@torch.no_grad()
def test_the_step_compiles_to_machine_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """Greedy: rounding then decides nothing where one value is clearly the best."""
    torch._dynamo.reset()
    monkeypatch.setattr(decoding_step, 'BACKEND', 'inductor')
    model = tiny.make(
        MergeAR,
        arch={**tiny.ARCH, 'num_layers': 1},
        tokenizer=dict(grid=(3, 4)),  # 14 slots are read at once: one graph
    )
    options = dict(cache='full', temperature=0)
    expected = model.sample_codes(LABELS, 4, SEEDS, **options)
    assert min_margin(model, expected.index, LABELS) > 1e-3
    drawn = model.sample_codes(LABELS, 4, SEEDS, step='compile', **options)
    assert torch.equal(drawn.index, expected.index)


@torch.no_grad()
def min_margin(model: MergeAR, index: Tensor, labels: Tensor) -> float:
    """How far the best logit of any place and part is above the second."""
    margins = []
    for logits in model.logits(index, labels, 4):
        best = logits.topk(2, dim=-1).values
        margins.append((best[..., 0] - best[..., 1]).min().item())
    return min(margins)


@pytest.mark.gpu
@pytest.mark.parametrize('device', ['cuda:0', 'cuda:1'])
@pytest.mark.parametrize('cache', ['full', 'compressed'])
def test_the_step_is_captured_in_graphs(cache: str, device: str) -> None:
    """Blocks of reads, and a store that grows from 17 codes to more."""
    if torch.device(device).index >= torch.cuda.device_count():
        pytest.skip('there is one GPU')
    model, labels = tiny.make(MergeAR, keep=1).to(device), LABELS.to(device)
    expected = model.sample_codes(labels, 1, SEEDS, cache, temperature=0)
    drawn = model.sample_codes(labels, 1, SEEDS, cache, temperature=0, step='graph')
    assert torch.equal(drawn.index, expected.index)
    for name in ('distinct', 'occupied', 'passes'):  # slots: as the host hears of them
        assert drawn.stats[name].equal(expected.stats[name]), name
    free = model.sample_codes(labels, 1, SEEDS, cache)
    if cache == 'compressed':
        assert (free.stats['cache_slots'] > 2 + 2 + 17).any()
    again = model.sample_codes(labels, 1, SEEDS, cache, step='graph')
    assert torch.equal(again.index, free.index)


# --------------------------------------------------------------------- both generators


@pytest.mark.parametrize('kind', [MergeAR, RandAR])
def test_drawing_leaves_no_trace(kind: type) -> None:
    model = tiny.make(kind)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    names = set(vars(model))
    first = model.sample_codes(LABELS, 4, SEEDS).index
    second = model.sample_codes(LABELS, 4, SEEDS).index
    assert torch.equal(first, second) and set(vars(model)) == names
    for name, value in model.state_dict().items():
        assert_close(value, before[name], rtol=0, atol=0)
    assert not first.requires_grad
