"""Whether onnxruntime computes what torch does, from the file alone.

Which tokens merge is decided by comparisons, and rounding decides between two pairs
that are equally similar; all that comes after differs then. An image is left out, and
counted, where torch itself decides otherwise once each pixel has changed by less than
a thousandth of a grey value. That is looked at only where onnxruntime has other codes.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .graphs import Graph, Inputs

FLOATS = 1e-4  # most that numbers may differ, of the largest (or of 1)
CODES = 0.999  # least share of equal codes
BATCHES = (1, 2, 5)
SMALLEST = 5e-6  # change of a pixel in [-1, 1]: less than a thousandth of a grey value
TRIALS = 8


class Agreement(NamedTuple):
    """How far a graph agrees with torch.

    Attributes:
        floats (float): Largest difference, as a share of the largest number or of 1.
        equal (int): Codes that are the same.
        codes (int): Codes in all.
        samples (int): Samples that were compared. Defaults to 1.
        left_out (int): Samples that hang on rounding in torch, too. Defaults to 0.
    """

    floats: float
    equal: int
    codes: int
    samples: int = 1
    left_out: int = 0

    @property
    def good(self) -> bool:
        """bool: Whether it is close enough, in at least a quarter of the samples."""
        enough = self.left_out <= 3 * self.samples
        return enough and self.floats <= FLOATS and self.equal >= CODES * self.codes

    def __str__(self) -> str:
        text = f'numbers to {self.floats:.1e}'
        if self.codes:
            share = 100 * self.equal / self.codes
            text += f', {share:.4g} % of {self.codes} codes'
        if self.left_out:
            text += f' ({self.left_out} images left out, which hang on rounding)'
        return text


def open_session(path: Path, threads: int = 0) -> Any:
    """A graph in onnxruntime, on the CPU.

    Args:
        path (Path): The file.
        threads (int): Defaults to 0, as many as onnxruntime thinks.

    Returns:
        onnxruntime.InferenceSession: Of the graph.
    """
    runtime = importlib.import_module('onnxruntime')
    options = runtime.SessionOptions()
    options.log_severity_level = 3  # errors
    options.intra_op_num_threads = threads
    return runtime.InferenceSession(
        str(path), options, providers=['CPUExecutionProvider']
    )


def compare(graph: Graph, path: Path, batches: Sequence[int] = BATCHES) -> Agreement:
    """Run a graph by torch and by onnxruntime.

    Args:
        graph (Graph): On the CPU.
        path (Path): Its file.
        batches (Sequence[int]): Samples at a time. Defaults to 1, 2 and 5.

    Returns:
        Agreement: Over all batches.
    """
    session = open_session(path, torch.get_num_threads())
    parts = []
    for batch in batches:
        inputs = graph.example(batch)
        expected = run_torch(graph, inputs)
        fed = {name: value.numpy() for name, value in inputs.items()}
        found = [torch.from_numpy(made) for made in session.run(None, fed)]
        out = torch.zeros(batch, dtype=torch.bool)
        if graph.codes is not None and graph.merges:
            out = few_equal(graph.codes(expected), graph.codes(found))
            if out.any():
                out &= hang_on_rounding(graph, inputs, expected)
            expected, found = [x[~out] for x in expected], [x[~out] for x in found]
        parts.append(_agreement(graph, expected, found, out))
    return Agreement(
        max((part.floats for part in parts), default=0.0),
        sum(part.equal for part in parts),
        sum(part.codes for part in parts),
        sum(part.samples for part in parts),
        sum(part.left_out for part in parts),
    )


def _agreement(
    graph: Graph, expected: Sequence[Tensor], found: Sequence[Tensor], out: Tensor
) -> Agreement:
    """Of one batch, whose samples are left out already that are to be."""
    floats, equal, codes = 0.0, 0, 0
    for a, b in zip(expected, found, strict=True):
        assert a.shape == b.shape and a.dtype == b.dtype, (a.shape, b.shape)
        if a.is_floating_point() and a.numel():
            floats = max(floats, difference(a, b))
    if graph.codes is not None:
        same = graph.codes(expected) == graph.codes(found)
        equal, codes = int(same.sum()), same.numel()
    left_out = int(out.sum())
    return Agreement(floats, equal, codes, len(out) - left_out, left_out)


@torch.inference_mode()
def run_torch(graph: Graph, inputs: Inputs) -> list[Tensor]:
    """The outputs of a graph's module."""
    made = graph.module(**inputs)
    return [made] if isinstance(made, Tensor) else list(made)


def few_equal(expected: Tensor, found: Tensor) -> Tensor:
    """Which samples have too few equal codes: B×n twice to B bool."""
    return (expected == found).float().mean(dim=1) < CODES


def hang_on_rounding(
    graph: Graph, inputs: Inputs, expected: Sequence[Tensor]
) -> Tensor:
    """Which samples get other codes from torch when their pixels hardly change.

    Args:
        graph (Graph): With codes.
        inputs (dict[str, Tensor]): Of a batch.
        expected (Sequence[Tensor]): What torch makes of them.

    Returns:
        Tensor: B bool.
    """
    assert graph.codes is not None
    codes = graph.codes(expected)
    rng = torch.Generator().manual_seed(0)
    hang = torch.zeros(len(codes), dtype=torch.bool)
    for _ in range(TRIALS):
        changed = {
            name: x + SMALLEST * (2 * torch.rand(x.shape, generator=rng) - 1)
            for name, x in inputs.items()
        }
        hang |= few_equal(codes, graph.codes(run_torch(graph, changed)))
    return hang


def difference(expected: Tensor, found: Tensor) -> float:
    """Largest difference, of the largest number or of 1; NaN counts as infinite."""
    most = float((expected - found).abs().max() / expected.abs().max().clamp(min=1))
    return most if most == most else float('inf')
