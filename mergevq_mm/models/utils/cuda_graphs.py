"""Work that is captured once as a CUDA graph and then done again by one launch.

A graph reads and writes the places in memory where its tensors stood when it was
captured. So those who use it copy what changes into memory that stays, and look whether
the weights are still where they were.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn


class DeviceGraphs:
    """Captures on one device.

    They share a stream and a pool: one piece of work runs at a time, whatever thread
    asks for it, and none keeps anything for the next one but the static memory that it
    was given.

    Args:
        device (torch.device): CUDA.
    """

    def __init__(self, device: torch.device) -> None:
        self.device, self.stream = device, torch.cuda.Stream(device)
        self.alive: weakref.WeakSet[torch.cuda.CUDAGraph] = weakref.WeakSet()
        self.pool: Any = None
        self._lock = threading.RLock()

    def warm_up(self, work: Callable[[], None]) -> None:
        """Do the work once on the stream on which captures run."""
        here = torch.cuda.current_stream(self.device)
        self.stream.wait_stream(here)
        with self._lock, torch.cuda.stream(self.stream):
            work()
        here.wait_stream(self.stream)

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        """What does the work again; capturing does nothing of it."""
        graph = torch.cuda.CUDAGraph()
        # Threads beside this one, such as those that pin batches, may go on.
        with self._lock, torch.cuda.device(self.device):
            if not self.alive:  # a pool goes with its last graph
                self.pool = torch.cuda.graph_pool_handle()
            with torch.cuda.graph(
                graph,
                pool=self.pool,
                stream=self.stream,
                capture_error_mode='thread_local',
            ):
                work()
            self.alive.add(graph)
        return graph.replay

    def wait(self) -> None:
        """Until all that was asked for is done: only then may a graph go."""
        torch.cuda.synchronize(self.device)


@cache
def graphs_of(device: torch.device) -> DeviceGraphs:
    """The captures of a device, one a process."""
    return DeviceGraphs(device)


@contextmanager
def no_autocast_cache() -> Iterator[None]:
    """Let autocast convert weights where they are used, and keep none of the copies.

    It frees its copies when it ends; a graph would go on to read that memory.
    """
    before = torch.is_autocast_cache_enabled()
    torch.set_autocast_cache_enabled(False)
    try:
        yield
    finally:
        torch.set_autocast_cache_enabled(before)


def places_of(modules: Iterable[nn.Module], *others: Tensor) -> tuple[int, ...]:
    """Addresses of all weights and buffers of modules, and of other tensors."""
    weights = [w for part in modules for w in (*part.parameters(), *part.buffers())]
    return tuple(w.data_ptr() for w in (*weights, *others))
