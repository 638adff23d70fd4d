"""The one-token step of raster decoding: as it is, compiled, or a captured graph.

The step has static shapes and works in place, so that a compiler or a CUDA graph can
take it. Three things change between steps: the tensors that hold code and position,
whose contents change; ``read``, the part of the cache that is looked at, which grows by
whole blocks; and, seldom, the cache's store, when a sample needs more room. A compiled
step has one graph for all batches of two and more samples, one for a single sample, and
others for other kinds of options and caches. A graph is captured for each ``read``, and
all are thrown away when the store is another one, as they would write into the old.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

from mergevq_mm.utils.compiling import limit_hit, recompile_limit

from .raster_decoding import RasterDecoding, decode_step

STEPS = ('eager', 'compile', 'graph')
BACKEND = 'inductor'
RECOMPILATIONS = 64  # graphs of one process

Step = Callable[[Tensor, Tensor, int], Tensor]


def check_step(step: str, device: torch.device, speculative: int = 0) -> None:
    """Refuse a step that cannot be.

    Args:
        step (str): Of :data:`STEPS`.
        device (torch.device): Where it is to run.
        speculative (int): Drafts of a pass. Defaults to 0.

    Raises:
        ValueError: If it is not known, or does not go with the device or the drafts.
    """
    if step not in STEPS:
        raise ValueError(
            f"step='{step}' is not known; choose one of {', '.join(STEPS)}."
        )
    if step == 'graph' and device.type != 'cuda':
        raise ValueError(
            f"step='graph' captures a CUDA graph, but the model is on the "
            f"{device.type}; use step='compile' or 'eager', or move it to a GPU."
        )
    if step != 'eager' and speculative:
        raise ValueError(
            f"step='{step}' is one token, but speculative={speculative} runs several "
            "a pass; use step='eager' with it, or speculative=0."
        )


def make_step(step: str, decoding: RasterDecoding) -> Step | None:
    """What :func:`.raster_decoding.decode_raster` is to call for each token.

    Args:
        step (str): Checked, of :data:`STEPS`.
        decoding (RasterDecoding): The samples.

    Returns:
        Callable, optional: None for 'eager'.
    """
    if step == 'compile':
        return CompiledStep(decoding)
    return CapturedStep(decoding) if step == 'graph' else None


@cache
def compiled_step(backend: str) -> Callable[..., Tensor]:
    """The step behind a compiler, one a process."""
    return torch.compile(decode_step, fullgraph=True, backend=backend)


class CompiledStep:
    """The step, compiled to one graph; as it is, where there are too many graphs.

    Args:
        decoding (RasterDecoding): The samples.
    """

    def __init__(self, decoding: RasterDecoding) -> None:
        self.decoding = decoding
        self.run = compiled_step(BACKEND)

    def __call__(self, code: Tensor, token: Tensor, read: int) -> Tensor:
        """See :func:`.raster_decoding.decode_step`."""
        try:
            with torch._dynamo.config.patch({recompile_limit(): RECOMPILATIONS}):
                return self.run(self.decoding, code, token, read)
        except limit_hit():
            # Raised before the step: nothing of it has been done.
            warnings.warn(
                f"step='compile' has reached {RECOMPILATIONS} graphs in this process; "
                "steps of yet other sizes and options now run as step='eager' does. "
                'Start a new process, or draw with fewer sizes and options.',
                RuntimeWarning,
                stacklevel=2,
            )
            self.run = decode_step
            return decode_step(self.decoding, code, token, read)


class CapturedStep:
    """The step as CUDA graphs, one for each part of the cache that is read.

    The first step of each kind runs as it is, which also warms the libraries up.

    Args:
        decoding (RasterDecoding): The samples.
    """

    def __init__(self, decoding: RasterDecoding) -> None:
        self.decoding = decoding
        self.version = decoding.cache.store.version
        self.graphs: dict[int, torch.cuda.CUDAGraph | None] = {}
        self.code = torch.zeros_like(decoding.index[:, :1])
        self.token: Tensor | None = None
        self.stream = torch.cuda.Stream(decoding.index.device)

    def __call__(self, code: Tensor, token: Tensor, read: int) -> Tensor:
        """See :func:`.raster_decoding.decode_step`; ``token`` is always the same."""
        assert self.token is None or self.token is token
        self.token = token
        if self.version != self.decoding.cache.store.version:
            # The old graphs may still be running; their memory must not go before.
            torch.cuda.current_stream().synchronize()
            self.graphs.clear()
            self.version = self.decoding.cache.store.version
        self.code.copy_(code)
        if read not in self.graphs:
            self.graphs[read] = None
            self._warm_up(read)
        else:
            if self.graphs[read] is None:
                self.graphs[read] = self._capture(read)
            self.graphs[read].replay()
        return self.code

    def _warm_up(self, read: int) -> None:
        """A step on the stream on which captures run."""
        here = torch.cuda.current_stream()
        self.stream.wait_stream(here)
        with torch.cuda.stream(self.stream):
            self.code.copy_(decode_step(self.decoding, self.code, self.token, read))
        here.wait_stream(self.stream)

    def _capture(self, read: int) -> torch.cuda.CUDAGraph:
        """A graph of a step; capturing runs nothing."""
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=self.stream):
            self.code.copy_(decode_step(self.decoding, self.code, self.token, read))
        return graph
