"""What the sections of the report on a GPU share: sizes, clocks and counts."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from statistics import median
from typing import Any

import torch
from common import interleaved
from generation import bandwidth
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from mergevq_mm.models.utils.cuda_graphs import graphs_of
from mergevq_mm.utils.operator_count import count_operators

ENOUGH = 3.0  # seconds of turns


class TimeUp(BaseException):
    """A section has used its time; no ``except Exception`` may keep it."""


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise :class:`TimeUp` in what runs longer, in the main thread of a process.

    Args:
        seconds (float): Limit.
    """

    def stop(number: int, frame: Any) -> None:
        raise TimeUp

    before = signal.signal(signal.SIGALRM, stop)
    # Once more each second: an exception in a destructor is lost.
    signal.setitimer(signal.ITIMER_REAL, seconds, 1.0)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)


@dataclass
class Setting:
    """What all sections of a report are measured on.

    Attributes:
        device (torch.device): Of all of them.
        small (bool): Whether sizes are tiny, so that all runs in seconds on a CPU.
        repeats (int): Turns, of which the median counts.
        seconds (float): That the present section may take.
    """

    device: torch.device
    small: bool = False
    repeats: int = 5
    seconds: float = 0.0

    @property
    def gpu(self) -> bool:
        """bool: Whether it is one that captures graphs and counts kernels."""
        return self.device.type == 'cuda'

    @cached_property
    def bandwidth(self) -> float:
        """float: Bytes a second that copying moves (read and written)."""
        return bandwidth(self.device, 2**20 if self.small else 2**29)

    @cached_property
    def matrix_rate(self) -> float:
        """float: Operations a second of a product of bfloat16 matrices."""
        return self.rate_of_product(torch.bfloat16)

    def rate_of_product(self, dtype: torch.dtype) -> float:
        """Operations a second of the product of two large square matrices."""
        size = 64 if self.small else 8192
        a, b = torch.randn(2, size, size, device=self.device).to(dtype)
        return 2 * size**3 / self.timed(lambda: a @ b)

    def timed(self, work: Callable[[], Any], warmup: int = 2) -> float:
        """Seconds of a piece of work, after some turns that do not count.

        What is slow has fewer turns: no more after :data:`ENOUGH` seconds.
        """
        runs: list[float] = []
        while len(runs) < self.repeats and sum(runs) < ENOUGH:
            runs += interleaved({'work': work}, 1, self.device, warmup)['work']
            warmup = 0
        return median(runs)

    def captured(self, work: Callable[[], Any]) -> Callable[[], None]:
        """The same work as a CUDA graph."""
        graphs = graphs_of(torch.empty(0, device=self.device).device)
        graphs.warm_up(work)
        return graphs.capture(work)

    def kernels(self, work: Callable[[], Any]) -> int | None:
        """Kernels and copies that a GPU runs; None on anything else.

        None, too, where nobody may look: times are not to be lost for that.
        """
        if not self.gpu:
            return None
        try:
            with profile(activities=[ProfilerActivity.CUDA]) as profiler:
                work()
                torch.cuda.synchronize(self.device)
        except RuntimeError as error:
            print(f'kernels are not counted: {error}', flush=True)
            return None
        events = profiler.profiler.kineto_results.events()
        on_gpu = torch.profiler.DeviceType.CUDA
        return sum(event.device_type() == on_gpu for event in events)


def operators(work: Callable[[], Any]) -> int:
    """Operators that compute or copy; see :func:`count_operators`."""
    with count_operators() as counts:
        work()
    return counts.total()


def no_output(work: Callable[[], Tensor]) -> Callable[[], None]:
    """The work under no_grad, whose result nobody keeps."""

    def run() -> None:
        with torch.no_grad():
            work()

    return run
