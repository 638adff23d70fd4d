"""The caches: equal to the full forward pass, and no larger than what may be seen."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
import tiny_mergear as tiny
import torch
from tiny_mergear import LENGTH
from torch import Tensor
from torch.testing import assert_close

from mergevq_mm.models.generators import MergeAR
from mergevq_mm.models.generators.host_copy import HostCopy, LaggedMaximum
from mergevq_mm.models.generators.kv_store import KVStore, SlotMemory
from mergevq_mm.models.generators.raster_decoding import RasterDecoding
from mergevq_mm.models.generators.token_cache import (
    NOBODY,
    CompressedCache,
    TokenCache,
)
from mergevq_mm.models.generators.visibility import first_of_its_kind

LABELS = torch.tensor([1, 4, 9])


def mixed_codes(keep: int) -> Tensor:
    """A sample with one code, one with K, one with a new code at almost each place."""
    index = tiny.merged_codes(keep)
    index[0] = index[0, 0]
    index[2] = torch.randperm(tiny.VOCABULARY)[:LENGTH]
    return index


# ----------------------------------------------------- equal to the full forward pass


@pytest.mark.parametrize('cache', ['full', 'compressed'])
@pytest.mark.parametrize('window', [1, 2, 7, None])
@pytest.mark.parametrize('keep', [1, 4, 12])
@torch.no_grad()
def test_cached_logits_are_those_of_the_full_forward(
    cache: str, window: int | None, keep: int
) -> None:
    model = tiny.make(MergeAR, keep=keep, window=window)
    for index in (tiny.merged_codes(keep), mixed_codes(keep)):
        logits, _ = tiny.cached_logits(model, index, LABELS, keep, cache)
        full = model.logits(index, LABELS, keep)
        for ours, theirs in zip(logits, full, strict=True):
            assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_cached_logits_of_the_distinct_codes() -> None:
    model = tiny.make(MergeAR, keep=12, sequence='distinct')
    index = tiny.merged_codes(12, length=12)
    logits, decoding = tiny.cached_logits(model, index, LABELS, 12, 'compressed')
    for ours, theirs in zip(logits, model.logits(index, LABELS, 12), strict=True):
        assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    assert decoding.cache.store.slots == 2 + 12  # nothing is ever out of sight


@torch.no_grad()
def test_several_tokens_at_a_time() -> None:
    model, keep = tiny.make(MergeAR, window=2), 4
    index = mixed_codes(keep)
    full = model.logits(index, LABELS, keep)
    for kind in ('full', 'compressed'):
        # Tokens of one call stand in the ring together with the window.
        decoding = model.start_decoding(LABELS, keep, [0, 1, 2], kind, speculative=4)
        contexts, place = [decoding.start(model.embed_prefix(LABELS, keep))], 0
        for number in (1, 3, 5, 2, 5, 5, 1, 4, 3):
            token = torch.arange(place, place + number).expand(3, -1)
            latest = model.prefix + place + number - 1
            read = decoding.cache.reserve(latest, new=number)
            contexts.append(decoding.advance(index.gather(1, token), token, read))
            place += number
        context = torch.cat(contexts, dim=1)
        assert place == LENGTH - 1
        logits = model.head(context, index, model.embedding)
        for ours, theirs in zip(logits, full, strict=True):
            assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


# ------------------------------------------------------------------- what is in there


def run(
    index: Tensor, keep: int, window: int, cache: str
) -> Iterator[tuple[MergeAR, RasterDecoding, int, Tensor]]:
    """Place codes step by step; yields the decoding, the last place, its context."""
    model = tiny.make(MergeAR, keep=keep, window=window)
    labels = LABELS[: len(index)]
    decoding = model.start_decoding(labels, keep, range(len(index)), cache)
    with torch.no_grad():
        decoding.start(model.embed_prefix(labels, keep))
        for place in range(LENGTH - 1):
            token = torch.full_like(labels, place)[:, None]
            read = decoding.cache.reserve(model.prefix + place)
            context = decoding.advance(index[:, place, None], token, read)
            yield model, decoding, place, context


@pytest.mark.parametrize('window', [1, 2, 7])
def test_compressed_cache_holds_prefix_window_and_distinct_codes(window: int) -> None:
    index = mixed_codes(4)
    first = first_of_its_kind(index)
    evicted = 0
    for model, decoding, place, _ in run(index, 4, window, 'compressed'):
        cache = decoding.cache
        for b in range(len(index)):
            step = cache.step[b][cache.step[b] != NOBODY]
            tokens = (step - model.prefix).tolist()
            assert len(set(tokens)) == len(tokens)
            kept = [i for i in range(place + 1) if first[b, i]]
            near = range(max(place - window + 1, 0), place + 1)
            # Everything that may be seen is there …
            assert set(tokens) >= {-2, -1, *kept, *near}
            # … and beside the first occurrences nothing that has left the window.
            others = [t for t in tokens if t >= 0 and t not in kept]
            assert set(others) <= set(near)
            assert cache.kept[b].sum() == model.prefix + len(kept)
            assert cache.distinct[b] == len(kept)
            assert cache.occupied[b] == len(tokens)
            assert cache.occupied[b] <= model.prefix + window + len(kept)
            evicted = max(evicted, place + 1 + model.prefix - len(tokens))
    assert evicted == LENGTH - 1 - 1 - min(window, LENGTH - 2)  # of the single code


def test_the_record_points_to_the_first_occurrence() -> None:
    index = mixed_codes(4)
    for name in ('full', 'compressed'):
        for model, decoding, place, _ in run(index, 4, 2, name):
            cache = decoding.cache
            for b, codes in enumerate(index.tolist()):
                for i in range(place + 1):
                    (slot,) = (cache.code[b] == codes[i]).nonzero().flatten()
                    step = cache.step[b, slot] - model.prefix
                    assert step == codes.index(codes[i])


@pytest.mark.parametrize('cache', ['full', 'compressed'])
def test_what_was_evicted_does_not_exist(cache: str) -> None:
    """Whatever stands in slots that nobody may see, the contexts stay the same."""
    index = mixed_codes(4)
    clean = [context for *_, context in run(index, 4, 2, cache)]
    first = first_of_its_kind(index)
    poisoned, dirty = 0, run(index, 4, 2, cache)
    for place, (model, decoding, _, context) in enumerate(dirty):
        assert torch.equal(context, clean[place])
        store, held = decoding.cache.store, decoding.cache
        for b in range(len(index)):
            for slot, step in enumerate(held.step[b].tolist()):
                token = step - model.prefix
                seen = token < 0 or (token < LENGTH and first[b, token])
                # The next query is the token place + 1, with its window of two.
                if step == NOBODY or not (seen or token > place - 1):
                    for room in store.rooms:
                        room[:, b, :, slot] = 1e9
                    poisoned += 1
    assert poisoned > 100


def test_evicted_entries_are_overwritten() -> None:
    index = torch.full((1, LENGTH), 9)
    for _, decoding, _, _ in run(index, 4, 2, 'compressed'):
        room, step = decoding.cache.store.rooms[0][1], decoding.cache.step
        used = room[0, 0].abs().sum(dim=1) > 0  # slots that were ever written
        assert used.tolist() == (step[0] != NOBODY).tolist()
    # Prefix, window and one code, although 29 tokens went through.
    assert used.sum() == 2 + 2 + 1


# ----------------------------------------------------------------------------- growth


@pytest.mark.parametrize('window', [1, 2, 7])
@torch.no_grad()
def test_more_codes_than_k_break_nothing(window: int) -> None:
    model = tiny.make(MergeAR, keep=1, window=window)
    index = mixed_codes(4)
    logits, decoding = tiny.cached_logits(model, index, LABELS, 1, 'compressed')
    for ours, theirs in zip(logits, model.logits(index, LABELS, 1), strict=True):
        assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    cache = decoding.cache
    assert cache.distinct.tolist()[::2] == [1, LENGTH - 1]
    # It began with room for one code and a block; it never has room for more than L.
    assert cache.capacity == LENGTH > 1 + 16
    assert cache.store.slots == model.prefix + window + LENGTH
    assert {room.shape[3] for room in cache.store.rooms} == {cache.store.slots}
    assert cache.step.shape[1] == cache.store.slots


@torch.no_grad()
def test_cache_bytes() -> None:
    """At most (P + w + K) / (P + L) of the full cache, plus one block."""
    keep, window, block = 9, 2, 16
    tokenizer = dict(grid=(12, 12))
    model = tiny.make(MergeAR, keep=keep, window=window, tokenizer=tokenizer)
    index = tiny.merged_codes(keep, length=144)
    _, full = tiny.cached_logits(model, index, LABELS, keep, 'full')
    for restrict in (False, True):
        _, small = tiny.cached_logits(
            model, index, LABELS, keep, 'compressed', restrict=restrict
        )
        slot = full.cache.store.nbytes / full.cache.store.slots
        assert full.cache.store.nbytes == slot * (2 + 144)
        assert slot == 2 * tiny.LAYERS * 3 * tiny.DIMS * 4  # keys and values of 3
        share = (2 + window + keep) / (2 + 144)
        assert (
            small.cache.store.nbytes <= share * full.cache.store.nbytes + block * slot
        )
        assert small.cache.store.nbytes < 0.2 * full.cache.store.nbytes
        assert small.cache.store.peak_bytes == small.cache.store.nbytes
        spare = 0 if restrict else block
        assert small.cache.store.slots == 2 + window + keep + spare


def test_a_cache_that_saves_nothing_is_the_full_one() -> None:
    """The ring and the spare slots count too; so do drafts, in both."""
    for keep, window, drafts, restrict, slots in (
        (4, 2, 0, False, 2 + 2 + 4 + 16),
        (9, 2, 0, False, 2 + 2 + 9 + 16),
        (10, 3, 0, False, 2 + 3 + 10 + 16),
        (10, 4, 0, False, 2 + LENGTH),  # 32 slots, as many as the full one has
        (12, 2, 0, False, 2 + LENGTH),
        (12, 2, 3, False, 2 + LENGTH + 3),
        (12, 2, 3, True, 2 + 2 + 3 + 12),
        (27, 2, 0, True, 2 + 2 + 27),
        (28, 2, 0, True, 2 + LENGTH),
    ):
        model = tiny.make(MergeAR, keep=keep, candidates=[keep], window=window)
        cache = model.make_cache('compressed', 3, LENGTH, keep, drafts, restrict)
        assert cache.store.slots == slots
        whole = slots == 2 + LENGTH + drafts
        assert isinstance(cache, CompressedCache) == (not whole)


def test_reading_no_more_than_needed() -> None:
    for name, bound in (('full', LENGTH), ('compressed', 4)):
        model = tiny.make(MergeAR, window=2)
        decoding = model.start_decoding(LABELS, 4, [0, 1, 2], name)
        for token in range(LENGTH):
            read = decoding.cache.reserve(model.prefix + token)
            # Nothing is placed here: a compressed cache has no code at all.
            least = model.prefix + (token + 1 if name == 'full' else 2)
            assert read >= min(least, decoding.cache.store.slots)
            assert read <= min(
                model.prefix + 2 + token + 16, decoding.cache.store.slots
            )
        assert decoding.cache.store.slots <= model.prefix + 2 + bound + 16


@pytest.mark.parametrize('restrict', [False, True])
def test_reading_what_is_occupied(restrict: bool) -> None:
    """By the last count, of at most 7 tokens ago, in whole blocks."""
    model = tiny.make(MergeAR, keep=12, window=2, tokenizer=dict(grid=(12, 12)))
    index = tiny.merged_codes(3, length=144)
    decoding = model.start_decoding(
        LABELS, 12, [0, 1, 2], 'compressed', restrict=restrict
    )
    cache, reads = decoding.cache, []
    with torch.no_grad():
        decoding.start(model.embed_prefix(LABELS, 12))
        for place in range(143):
            reads.append(cache.reserve(model.prefix + place))
            token = torch.full_like(LABELS, place)[:, None]
            decoding.advance(index[:, place, None], token, reads[-1])
            used = model.prefix + 2 + int(cache.distinct.max())
            assert used <= reads[-1] <= min(used + 7 + 15, cache.store.slots)
    assert cache.store.slots == 2 + 2 + 12 + 16 * (not restrict)
    assert max(reads) == 16  # 7 occupied, and 7 that could be


def test_lagged_maximum(monkeypatch: pytest.MonkeyPatch) -> None:
    """Never below the counter, and at most lag - 1 above where copies arrive at once.

    Late ones are waited for after lag additions: at most 2 lag - 1.
    """
    generator = torch.Generator().manual_seed(3)
    for lag, late in itertools.product((1, 2, 5, 8), (False, True)):
        monkeypatch.setattr(HostCopy, 'ready', not late)
        most = 2 * lag - 1 if late else lag - 1
        for chance in (0.0, 0.3, 1.0):
            counter = torch.zeros(3, dtype=torch.int64)
            lagged, largest = LaggedMaximum(counter, lag), 0
            for _ in range(100):
                bound = lagged.bound()
                excess = bound - int(counter.max())
                assert 0 <= excess <= most
                largest = max(largest, excess)
                counter += (torch.rand(3, generator=generator) < chance).long()
                lagged.advance(1)
            if chance == 0:
                assert largest == most
            if chance == 1:
                assert largest == 0


class Late(HostCopy):
    """Arrives only when somebody waits for it; remembers who did."""

    made: list[HostCopy] = []
    waited: list[HostCopy] = []
    ready = False

    def __init__(self, value: Tensor) -> None:
        super().__init__(value.clone())
        self.made.append(self)

    def read(self) -> int | list[int]:
        self.waited.append(self)
        return super().read()


@pytest.fixture
def late(monkeypatch: pytest.MonkeyPatch) -> type[Late]:
    """A device that is far behind the host."""
    Late.made, Late.waited = [], []
    for name in ('host_copy', 'speculative'):
        monkeypatch.setattr(f'mergevq_mm.models.generators.{name}.HostCopy', Late)
    return Late


def test_the_host_looks_rarely(late: type[Late]) -> None:
    for _ in run(mixed_codes(4), 4, 2, 'compressed'):
        pass
    # It waits only when there may be more codes than slots, 4 and a block.
    assert 1 <= len(late.waited) <= len(late.made) <= LENGTH // 8


def test_the_host_does_not_wait_for_a_cache_that_suffices(late: type[Late]) -> None:
    for _, decoding, place, _ in run(tiny.merged_codes(4), 11, 2, 'compressed'):
        assert decoding.cache.capacity == 11 + 16
        # The last two of 29 tokens could be too many; one look tells of both.
        assert len(late.waited) == (place >= 27)
    assert len(late.made) == 3
    model = tiny.make(MergeAR)
    drawn = model.sample_codes(LABELS, 4, [1, 2, 3], restrict=True)
    assert len(late.waited) == 1 and (drawn.stats['cache_slots'] == 2 + 2 + 4).all()


def test_a_bound_that_is_good_enough() -> None:
    counter = torch.zeros(3, dtype=torch.int64)

    class Slow(LaggedMaximum):
        """Does not look."""

    lagged = Slow(counter, lag=4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(HostCopy, 'ready', False)
        for added in range(20):
            assert lagged.bound(enough=100) == added  # no copy has arrived
            lagged.advance(1)
        # Copies were made at 4, 8, 12, 16; that of 16 is old enough.
        assert lagged.bound(enough=18) == 20 - 4  # the first one suffices
        assert lagged.bound(enough=5) == 20 - 16


# ------------------------------------------------------------------------- taking back


def test_forget_undoes_place() -> None:
    def state(cache: TokenCache) -> list[Tensor]:
        return [cache.step, cache.code, cache.kept, cache.distinct, cache.occupied]

    index = mixed_codes(4)
    for name in ('full', 'compressed'):
        model = tiny.make(MergeAR, window=2)
        caches = []
        for extra in (0, 3):
            decoding = model.start_decoding(LABELS, 4, [0, 1, 2], name, speculative=3)
            cache: TokenCache = decoding.cache
            cache.place_prefix()
            for token in range(12):
                step = torch.full((3, 1), model.prefix + token)
                read = cache.reserve(model.prefix + token)
                cache.place(index[:, token, None], step, read)
            if extra:  # drafts are placed together
                step = torch.arange(14, 14 + extra).expand(3, -1)
                read = cache.reserve(14 + extra - 1, new=extra)
                cache.place(index[:, 12 : 12 + extra], step, read)
            cache.forget(torch.full((3, 1), model.prefix + 12))
            caches.append(cache)
        plain, undone = caches
        assert undone.distinct.equal(plain.distinct)
        for b in range(3):  # the first occurrences and the window are as they were
            for cache in caches:
                assert (cache.step[b] != NOBODY).sum() == cache.occupied[b]
            seen = [
                {
                    (int(s), int(c))
                    for s, c in zip(cache.step[b], cache.code[b], strict=True)
                    # In the window of the next query is the last token alone.
                    if c >= 0 or s < model.prefix or s == model.prefix + 11
                }
                for cache in caches
            ]
            assert seen[0] == seen[1]
        if name == 'compressed':
            assert undone.count.equal(undone.distinct)


# ------------------------------------------------------------------------------- store


def test_store_writes_where_it_is_told() -> None:
    store = KVStore(2, 3, 4, 10, 8, torch.zeros(1))
    assert store.nbytes == 2 * 2 * 3 * 4 * 10 * 8 * 4
    new = torch.randn(2, 3, 4, 2, 8)  # keys and values
    read = SlotMemory(store, 5, read=7)(1, new)
    assert read.shape == (2, 3, 4, 7, 8)
    assert torch.equal(read[..., 5:7, :], new)
    assert (read[..., :5, :] == 0).all() and (store.rooms[0] == 0).all()
    slots = torch.tensor([[9, 0], [3, 4], [1, 8]])
    SlotMemory(store, slots, read=10)(0, new)
    for b, (one, two) in enumerate(slots.tolist()):
        assert torch.equal(store.rooms[0][:, b, :, one], new[:, b, :, 0])
        assert torch.equal(store.rooms[0][:, b, :, two], new[:, b, :, 1])
        written = store.rooms[0][:, b].abs().sum(dim=(1, 3)) > 0
        assert written.sum(dim=1).tolist() == [2, 2]
    assert store.nbytes == sum(room.nbytes for room in store.rooms)
    before, small = torch.stack(store.rooms), store.nbytes
    assert store.peak_bytes == small and store.version == 0
    store.grow(6)
    assert store.nbytes == small * 16 / 10 and store.version == 1
    # For a moment keys and values of one of the two layers are there twice.
    assert store.peak_bytes == store.nbytes + small / 2
    assert store.slots == 16
    assert torch.equal(torch.stack(store.rooms)[..., :10, :], before)
    assert all((room[..., 10:, :] == 0).all() for room in store.rooms)


def test_store_has_the_type_of_autocast() -> None:
    like = torch.zeros(1)
    with torch.autocast('cpu', torch.bfloat16):
        assert KVStore(1, 1, 1, 1, 4, like).dtype == torch.bfloat16
    assert KVStore(1, 1, 1, 1, 4, like.double()).dtype == torch.float64


def test_bfloat16_autocast_decodes() -> None:
    model = tiny.make(MergeAR, window=2)
    with torch.autocast('cpu', torch.bfloat16):
        drawn = model.sample_codes(LABELS, 4, [1, 2, 3])
        index = drawn.index
        logits, decoding = tiny.cached_logits(model, index, LABELS, 4, 'compressed')
        full = model.logits(index, LABELS, 4)
    assert decoding.cache.store.rooms[0].dtype == torch.bfloat16
    for ours, theirs in zip(logits, full, strict=True):
        assert_close(ours.float(), theirs.float(), rtol=0.1, atol=0.1)


def test_a_compressed_cache_needs_a_window() -> None:
    def make_store(slots: int) -> KVStore:
        return KVStore(1, 1, 1, slots, 4, torch.zeros(1))

    with pytest.raises(ValueError, match=r'window=None .* give a window or use cache='):
        CompressedCache(make_store, 2, 8, None, 4)
    with pytest.raises(ValueError, match="cache='paged' is not known; .* full, comp"):
        tiny.make(MergeAR).sample_codes(LABELS, 4, [1, 2, 3], cache='paged')
