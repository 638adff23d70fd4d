"""A step, of one token or of drafts, as CUDA graphs that serve batch after batch.

A graph writes to and reads from the places in memory where its tensors stood when it
was captured. So a kind of batch (rows, slots, rule …) has static memory: a new batch of
it lends that memory, whose contents are set to its own, and replays the graphs that are
there. The part of the cache that is read is rounded up to one of :data:`SIZES`, so that
a kind has so many graphs and no more. All graphs of a device share a stream and a pool:
one step runs at a time, and none keeps anything for the next but its static memory.

A graph is thrown away when its cache has grown or the weights lie elsewhere. A kind
that has grown begins its next batch with the slots that it has: what is drawn is the
same, and the bytes that are reported are what is held.
"""

from __future__ import annotations

import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..utils.cuda_graphs import graphs_of, no_autocast_cache, places_of
from .raster_decoding import RasterDecoding

SIZES = 4  # parts of a cache that are read
KINDS = 4  # of batches, for which a network keeps static memory

Step = Callable[[Tensor, Tensor, int], Tensor]


class StaticMemory:
    """What the graphs of a kind of batch read and write.

    Args:
        decoding (RasterDecoding): The first batch, whose memory it becomes.
    """

    def __init__(self, decoding: RasterDecoding) -> None:
        self.buffers, self.cache = buffers(decoding), decoding.cache
        self.code = torch.zeros_like(decoding.index[:, :1])
        self.token = torch.zeros_like(self.code)
        self.far = self.code.new_zeros(2)
        self.joined: list[Tensor] | None = None
        self.replays: dict[int, Callable[[], None] | None] = {}
        self.made_for: tuple[Any, ...] | None = None
        self.user = weakref.ref(decoding)

    @property
    def free(self) -> bool:
        """bool: Whether the batch that had it last is gone."""
        return self.user() is None

    def lend(self, decoding: RasterDecoding) -> None:
        """Let a batch that has drawn nothing yet use this memory, not its own."""
        for old, new in zip(self.buffers, buffers(decoding), strict=True):
            old.copy_(new)
        self.cache.reset()
        decoding.cache = self.cache
        decoding.joined.joined = self.joined
        noise, index, scale, factors, *others = self.buffers
        decoding.noise, decoding.index, decoding.scale = noise, index, scale
        decoding.network = replace(decoding.network, factors=factors)
        if decoding.drafting is not None:
            drawn, done, passes, *others = others
            decoding.drafting = replace(
                decoding.drafting, drawn=drawn, done=done, passes=passes
            )
        if decoding.beginnings is not None:
            decoding.beginnings = replace(decoding.beginnings, open=others.pop())
        if decoding.given is not None:
            decoding.given = others.pop()
        self.user = weakref.ref(decoding)


def buffers(decoding: RasterDecoding) -> list[Tensor]:
    """Tensors of a batch that a step reads, beside cache and weights."""
    found = [decoding.noise, decoding.index, decoding.scale, decoding.network.factors]
    if decoding.drafting is not None:
        drafting = decoding.drafting
        found += [drafting.drawn, drafting.done, drafting.passes]
    if decoding.given is not None:
        found.append(decoding.given)
    if decoding.beginnings is not None:
        found.append(decoding.beginnings.open)
    return found


def kind_of(decoding: RasterDecoding) -> tuple[Any, ...]:
    """What batches have in common that can use the same graphs."""
    store, rule = decoding.cache.store, decoding.rule
    # How strong guidance is stands in a tensor.
    rule = replace(rule, guidance=1.0 + rule.guided, guidance_schedule='constant')
    return (
        # What was made under inference_mode may not be changed outside of it.
        torch.is_inference_mode_enabled(),
        type(decoding.cache),
        decoding.cache.window,
        store.shape,
        store.dtype,
        repr(rule),
        decoding.given is None,
        decoding.beginnings is None,
        decoding.drafting is None,
        *(tuple(buffer.shape) for buffer in buffers(decoding)),
    )


_memory: weakref.WeakKeyDictionary[Any, OrderedDict[tuple[Any, ...], StaticMemory]]
_memory, _lock = weakref.WeakKeyDictionary(), threading.Lock()


def static_memory(decoding: RasterDecoding, way: str) -> StaticMemory:
    """Memory for a batch, lent to it; its own where no other is free.

    Args:
        decoding (RasterDecoding): Has drawn nothing yet; changed in place.
        way (str): How steps run that are captured.

    Returns:
        StaticMemory: Of this kind of batch.
    """
    with _lock:
        kinds = _memory.setdefault(decoding.network.transformer, OrderedDict())
        key = (way, *kind_of(decoding))
        memory = kinds.pop(key, None)
        if memory is not None and memory.free:
            memory.lend(decoding)
        else:
            memory = StaticMemory(decoding)
        kinds[key] = memory
        if len(kinds) > KINDS:
            graphs_of(decoding.index.device).wait()
            kinds.popitem(last=False)
        return memory


class Captured:
    """Work on a batch as CUDA graphs, one for each part of the cache that is read.

    The first time of each kind runs as it is, which also warms the libraries up.

    Args:
        decoding (RasterDecoding): The samples, none drawn yet; they get static memory.
        run (Callable): The work.
        way (str): Name of ``run``.
    """

    def __init__(
        self, decoding: RasterDecoding, run: Callable[..., Tensor], way: str
    ) -> None:
        self.memory = static_memory(decoding, way)
        self.graphs = graphs_of(decoding.index.device)
        self.decoding, self.run = decoding, run
        self.places: tuple[int, ...] = ()

    def replay(self, read: int) -> None:
        """Do the work, where at least so many slots of the cache are read."""
        memory, store = self.memory, self.decoding.cache.store
        if not self.places:  # the first time: the weights are joined by now
            memory.joined = self.decoding.joined.joined
            self.places = places_of_weights(self.decoding)
        if memory.made_for != (store.version, self.places):
            if memory.replays:
                self.graphs.wait()
                memory.replays.clear()
            memory.made_for = (store.version, self.places)
        read = rounded_read(read, store.slots)
        work = partial(self.work, read)
        if read not in memory.replays:
            memory.replays[read] = None
            self.graphs.warm_up(work)
            return
        replay = memory.replays[read]
        if replay is None:
            replay = memory.replays[read] = self.graphs.capture(work)
        replay()

    def work(self, read: int) -> None:
        """Do the work in static memory."""
        raise NotImplementedError


class CapturedStep(Captured):
    """The step of one token; ``run`` takes code, token and read."""

    def __call__(self, code: Tensor, token: Tensor, read: int) -> Tensor:
        """See :func:`.raster_decoding.decode_step`; ``token`` counts in own memory."""
        memory = self.memory
        if not self.places:
            memory.token.copy_(token)
        if code is not memory.code:
            memory.code.copy_(code)
        self.replay(read)
        return memory.code

    def work(self, read: int) -> None:
        """A step in static memory."""
        code, token = self.memory.code, self.memory.token
        with no_autocast_cache():
            code.copy_(self.run(code, token, read))


class CapturedPass(Captured):
    """The pass of several drafts; ``run`` takes read."""

    def __call__(self, read: int) -> Tensor:
        """See :func:`.speculative.draft_pass`."""
        self.replay(read)
        return self.memory.far.clone()  # the host reads it after the next pass

    def work(self, read: int) -> None:
        """A pass in static memory."""
        with no_autocast_cache():
            self.memory.far.copy_(self.run(read))


def places_of_weights(decoding: RasterDecoding) -> tuple[int, ...]:
    """Addresses of all weights of a step."""
    network = decoding.network
    parts = (network.embedding, network.transformer, network.head)
    return places_of(parts, *(decoding.joined.joined or ()))


def rounded_read(read: int, slots: int) -> int:
    """The smallest of :data:`SIZES` parts of a cache that holds what is to be read."""
    part = -(-slots // (16 * SIZES)) * 16
    return min(-(-read // part) * part, slots)
