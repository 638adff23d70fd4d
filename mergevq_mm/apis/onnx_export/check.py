"""Whether onnxruntime computes what torch does, from the file alone."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .graphs import Graph

FLOATS = 1e-4  # most that numbers may differ, of the largest (or of 1)
CODES = 0.999  # least share of equal codes
BATCHES = (1, 2, 5)


class Agreement(NamedTuple):
    """How far a graph agrees with torch.

    Attributes:
        floats (float): Largest difference, as a share of the largest number or of 1.
        equal (int): Codes that are the same.
        codes (int): Codes in all.
    """

    floats: float
    equal: int
    codes: int

    @property
    def good(self) -> bool:
        """bool: Whether it is close enough."""
        return self.floats <= FLOATS and self.equal >= CODES * self.codes

    def __str__(self) -> str:
        text = f'numbers to {self.floats:.1e}'
        if self.codes:
            share = 100 * self.equal / self.codes
            text += f', {share:.4g} % of {self.codes} codes'
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
    floats, equal, codes = 0.0, 0, 0
    for batch in batches:
        inputs = graph.example(batch)
        with torch.inference_mode():
            expected = graph.module(**inputs)
        if isinstance(expected, Tensor):
            expected = (expected,)
        fed = {name: value.numpy() for name, value in inputs.items()}
        found = [torch.from_numpy(made) for made in session.run(None, fed)]
        for a, b in zip(expected, found, strict=True):
            assert a.shape == b.shape and a.dtype == b.dtype, (a.shape, b.shape)
            if a.is_floating_point():
                floats = max(floats, difference(a, b))
        if graph.codes is not None:
            same = graph.codes(expected) == graph.codes(found)
            equal, codes = equal + int(same.sum()), codes + same.numel()
    return Agreement(floats, equal, codes)


def difference(expected: Tensor, found: Tensor) -> float:
    """Largest difference, of the largest number or of 1; NaN counts as infinite."""
    most = float((expected - found).abs().max() / expected.abs().max().clamp(min=1))
    return most if most == most else float('inf')
