"""Where the time and the memory of a training step go, part by part.

A step is cut into consecutive segments, and each segment belongs to the part that was
running: modules are watched by hooks, methods by wrapping them on the instance. Nothing
overlaps and nothing is left out, so the parts add up to the step.

The backward pass is cut too. Autograd runs the nodes of a graph in the reverse order of
their making, so all nodes of one part's forward pass follow each other; a hook on the
nodes that the part's outputs come from tells where its stretch begins. The few
operations between two parts count with the part that was made after them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from common import allocations, synchronize
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile, record_function

_MARK = 'mergevq_mm benchmark '

FORWARD, BACKWARD, UPDATE = 'forward', 'backward', 'update'


class Segment(NamedTuple):
    """A stretch of a step.

    Attributes:
        part (str): What was running.
        phase (str): 'forward', 'backward' or 'update'.
        seconds (float): How long.
        before (int): Bytes live at its start, beyond those live before the step.
        after (int): Bytes live at its end.
        peak (int): Most bytes live within it.
    """

    part: str
    phase: str
    seconds: float
    before: int = 0
    after: int = 0
    peak: int = 0


class PartRecorder:
    """Cuts what runs within :meth:`step` into segments.

    Args:
        device (torch.device): Where the model runs.

    Attributes:
        reached (dict[str, bool]): For each watched module, whether a step called it.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.active = False
        self.reached: dict[str, bool] = {}
        self._stack: list[tuple[str, str]] = []
        self._segments: list[Segment] = []
        self._calls: dict[str, int] = {}
        self._since = 0.0
        self._live = self._base = 0

    # ------------------------------------------------------------------ recording

    @contextmanager
    def step(self, memory: bool = False) -> Iterator[list[Segment]]:
        """Record a step.

        Args:
            memory (bool): Whether to follow the memory, which makes the times useless
                on a CPU. Defaults to False.

        Yields:
            list[Segment]: Filled when the block ends.
        """
        self._stack, self._segments, self._calls = [('other', FORWARD)], [], {}
        found: list[Segment] = []
        cuda = self.device.type == 'cuda'
        profiler = None
        if memory and not cuda:
            profiler = profile(activities=[ProfilerActivity.CPU], profile_memory=True)
            profiler.start()
        self._begin(cuda)
        try:
            yield found
            self._cut()
        finally:
            self.active = False
            if profiler is not None:
                profiler.stop()
        found.extend(self._segments)
        if profiler is not None:
            found[:] = with_memory(found, allocations(profiler, _MARK))

    def _begin(self, cuda: bool) -> None:
        synchronize(self.device)
        if cuda:
            torch.cuda.reset_peak_memory_stats(self.device)
            self._base = torch.cuda.memory_allocated(self.device)
        self._live = 0
        self.active = True
        with record_function(_MARK):
            pass
        self._since = time.perf_counter()

    def _cut(self) -> None:
        """End the segment that is running."""
        synchronize(self.device)
        seconds = time.perf_counter() - self._since
        before = live = peak = 0
        if self.device.type == 'cuda':
            before, live = self._live, torch.cuda.memory_allocated(self.device)
            peak = torch.cuda.max_memory_allocated(self.device) - self._base
            live = self._live = live - self._base
            torch.cuda.reset_peak_memory_stats(self.device)
        part, phase = self._stack[-1]
        self._segments.append(Segment(part, phase, seconds, before, live, peak))
        with record_function(_MARK):
            pass
        self._since = time.perf_counter()

    def enter(self, part: str, phase: str = FORWARD) -> None:
        """Begin a part within the one that is running."""
        if self.active:
            self._cut()
            if self._stack[-1][1] == BACKWARD and phase == FORWARD:
                phase = BACKWARD  # a checkpointed part is computed again
            self._stack.append((part, phase))

    def leave(self) -> None:
        """End a part; the one around it runs on."""
        if self.active:
            self._cut()
            self._stack.pop()

    def switch(self, part: str) -> None:
        """Say whose nodes the backward pass reaches now."""
        if self.active and self._stack[-1][1] == BACKWARD:
            if self._stack[-1][0] != part:
                self._cut()
                self._stack[-1] = (part, BACKWARD)

    def call(self, name: str) -> int:
        """Count the calls of something within a step, from 0."""
        number = self._calls.get(name, 0)
        self._calls[name] = number + 1
        return number

    # ------------------------------------------------------------------- watching

    def watch(self, key: str, module: nn.Module, name: Callable[[], str]) -> None:
        """Record the calls of a module, and its stretch of the backward pass.

        Args:
            key (str): Name of the module, for ``reached``.
            module (nn.Module): The module.
            name (Callable): Gives the name of the call that begins.
        """
        names: list[str] = []
        self.reached[key] = False

        def before(*_: Any) -> None:
            if self.active:
                self.reached[key] = True
                names.append(name())
                self.enter(names[-1])

        def after(_module: nn.Module, _inputs: Any, outputs: Any) -> None:
            if self.active:
                self._mark(outputs, names.pop())
                self.leave()

        module.register_forward_pre_hook(before)
        module.register_forward_hook(after)

    def wrap(self, owner: Any, method: str, part: str, phase: str = FORWARD) -> None:
        """Record the calls of a method of one object.

        Args:
            owner (Any): The object.
            method (str): Name of its method; replaced on the object, not on its class.
            part (str): Name of the part.
            phase (str): 'forward', 'backward' or 'update'. Defaults to 'forward'.
        """
        inner = getattr(owner, method)

        def timed(*args: Any, **kwargs: Any) -> Any:
            self.enter(part, phase)
            result = inner(*args, **kwargs)
            if self.active and phase == FORWARD:
                self._mark(result, part)
            self.leave()
            return result

        setattr(owner, method, timed)

    def _mark(self, value: Any, part: str) -> None:
        """Have the backward pass say when it reaches the nodes of a part's outputs."""
        for tensor in tensors(value):
            node = tensor.grad_fn
            if node is not None and _MARK not in node.metadata:
                node.metadata[_MARK] = part
                node.register_prehook(lambda _grads: self.switch(part))


def tensors(value: Any) -> Iterator[Tensor]:
    """All tensors in nested tuples, lists and mappings."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from tensors(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from tensors(item)


def with_memory(segments: list[Segment], changes: list[int | str]) -> list[Segment]:
    """Add the memory to segments that a CPU profile was taken of.

    Args:
        segments (list[Segment]): n consecutive segments.
        changes (list[int | str]): From :func:`allocations`, with the n + 1 marks at
            their ends.

    Returns:
        list[Segment]: With ``before``, ``after`` and ``peak``.
    """
    filled: list[Segment] = []
    live = before = peak = 0
    marks = 0
    for change in changes:
        if isinstance(change, str):
            marks += 1
            if marks == 1:
                live = 0  # what was allocated between the start and the first mark
            else:
                segment = segments[marks - 2]
                filled.append(segment._replace(before=before, after=live, peak=peak))
            before = peak = live
        else:
            live += change
            peak = max(peak, live)
    assert len(filled) == len(segments), 'each segment ends with a mark'
    return filled


class PartTotal(NamedTuple):
    """What one part took in one step.

    Attributes:
        seconds (dict[str, float]): By phase.
        peak (int): Most bytes live while the part ran, of all parts together.
        held (int): Bytes that its forward pass left behind, for the backward pass.
    """

    seconds: dict[str, float]
    peak: int
    held: int


def by_part(segments: list[Segment]) -> dict[str, PartTotal]:
    """Add up the segments of each part, in the order of first appearance."""
    totals: dict[str, PartTotal] = {}
    for segment in segments:
        old = totals.get(segment.part, PartTotal({}, 0, 0))
        seconds = dict(old.seconds)
        seconds[segment.phase] = seconds.get(segment.phase, 0.0) + segment.seconds
        left = segment.after - segment.before if segment.phase == FORWARD else 0
        totals[segment.part] = PartTotal(
            seconds, max(old.peak, segment.peak), old.held + left
        )
    return totals
