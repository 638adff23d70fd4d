"""The one-token step of raster decoding: as it is, compiled, or a captured graph.

The step has static shapes and works in place, so that a compiler or a CUDA graph can
take it. Three things change between steps: the tensors that hold code and position,
whose contents change; ``read``, the part of the cache that is looked at, which grows by
whole blocks; and, seldom, the cache's store, when a sample needs more room. A compiled
step has one graph for all batches of two and more samples, one for a single sample, and
others for other kinds of options and caches. For captured graphs, of the step as it is,
of the compiled one or of a pass of drafts, see :mod:`.captured_step`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache, partial

import torch
from torch import Tensor

from mergevq_mm.utils.compiling import limit_hit, recompile_limit

from .captured_step import CapturedPass, CapturedStep, Step
from .raster_decoding import RasterDecoding, decode_step
from .speculative import draft_pass

STEPS = ('eager', 'compile', 'graph', 'compile-graph')
BACKEND = 'inductor'
RECOMPILATIONS = 64  # graphs of one process


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
    if step.endswith('graph') and device.type != 'cuda':
        raise ValueError(
            f"step='{step}' captures a CUDA graph, but the model is on the "
            f"{device.type}; use step='compile' or 'eager', or move it to a GPU."
        )
    if step.startswith('compile') and speculative:
        raise ValueError(
            f"step='{step}' compiles the step of one token, but speculative="
            f"{speculative} runs several a pass; use step='graph' or 'eager' with it, "
            'or speculative=0.'
        )


def make_step(step: str, decoding: RasterDecoding) -> Step | None:
    """What is to be called for each token.

    Args:
        step (str): Checked, of :data:`STEPS`.
        decoding (RasterDecoding): The samples.

    Returns:
        Step, optional: For :func:`.raster_decoding.decode_raster`; None for 'eager'.
    """
    if step == 'eager':
        return None
    run: Step = partial(decode_step, decoding)
    if step.startswith('compile'):
        run = CompiledStep(decoding)
    return CapturedStep(decoding, run, step) if step.endswith('graph') else run


def make_pass(step: str, decoding: RasterDecoding) -> CapturedPass | None:
    """What is to be called for each pass of drafts.

    Args:
        step (str): Checked, of :data:`STEPS`.
        decoding (RasterDecoding): The samples, with their drafting.

    Returns:
        CapturedPass, optional: For :func:`.speculative.decode_speculatively`; None for
        'eager'.
    """
    if step == 'eager':
        return None
    return CapturedPass(decoding, partial(draft_pass, decoding), 'drafts')


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
