"""A module to an ONNX file, by ``torch.onnx`` and ``torch.export``."""

from __future__ import annotations

import importlib
import json
import logging
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from ...base.tier import require
from .graphs import Graph

FOLDED = 1024  # numbers of a constant that is computed before, not when it is loaded
_NEEDED = ('onnx', 'onnxscript', 'onnxruntime')
_OPERATOR = re.compile(r"OpOverload\(op='([\w.:]+)'|HigherOrderOperator: ([\w.]+)")


def check_packages() -> None:
    """Refuse to begin where a package of the extra is missing.

    Raises:
        MissingExtra: With the command that installs it.
    """
    for name in _NEEDED:
        require(name, 'Exporting to ONNX', 'export')


def write_onnx(graph: Graph, path: Path, batch: int = 3) -> None:
    """Write a graph.

    Args:
        graph (Graph): On the CPU.
        path (Path): The file; weights of more than 1.5 GB go beside it.
        batch (int): Samples of the example that is traced, more than 1 (of which torch
            would make a graph for a single one). Defaults to 3.

    Raises:
        ValueError: If ONNX lacks an operator that the graph needs, or torch cannot
            trace it.
        OSError: If the file cannot be written.
    """
    inputs = graph.example(batch)
    optimizer = importlib.import_module('onnxscript.optimizer')
    try:
        with torch.no_grad(), quiet():
            program = torch.onnx.export(
                graph.module,
                tuple(inputs.values()),
                input_names=list(inputs),
                output_names=list(graph.outputs),
                dynamic_shapes=tuple(dict(graph.free[name]) for name in inputs),
                custom_translation_table=translations(),
                dynamo=True,
                optimize=False,
                verbose=False,
            )
            assert program is not None
            # Not torch's own, which would bring small weights to float32 beforehand.
            optimizer.optimize(program.model, input_size_limit=FOLDED)
            forget_origin(program.model)
    except torch.onnx.OnnxExporterError as error:
        raise ValueError(why(error, graph.name)) from error
    program.model.metadata_props.update(
        {name: json.dumps(value) for name, value in graph.facts.items()}
    )
    program.save(path)


def forget_origin(model: Any) -> None:
    """Take out of which line of which file each node has come: it is half of a file.

    Args:
        model (onnx_ir.Model): Changed in place.
    """
    graph = model.graph
    known = [*graph.inputs, *graph.initializers.values()]
    for node in graph.all_nodes():
        node.doc_string = None
        known += [node, *node.outputs]
    for part in (graph, *known):
        part.metadata_props.clear()


def translations() -> dict[Callable[..., Any], Callable[..., Any]]:
    """Operators of torch that its exporter does not know, by those of ONNX."""
    op = importlib.import_module('onnxscript').opset18

    def stable_sort(
        self: Any, stable: bool | None = None, dim: int = -1, descending: bool = False
    ) -> Any:
        # Of equal values TopK takes the one of the lower index first.
        number = op.Gather(op.Shape(self), op.Constant(value_ints=[dim]))
        return op.TopK(self, number, axis=dim, largest=int(descending), sorted=1)

    def searchsorted(
        sorted_sequence: Any,
        self: Any,
        out_int32: bool = False,
        right: bool = False,
        side: str | None = None,
        sorter: Any = None,
    ) -> Any:
        # How many are not larger; rises are not looked for one after the other.
        assert right and sorter is None and not out_int32
        below = op.Cast(op.LessOrEqual(sorted_sequence, self), to=7)  # int64
        return op.ReduceSum(below, op.Constant(value_ints=[-1]), keepdims=1)

    aten = torch.ops.aten
    return {aten.sort.stable: stable_sort, aten.searchsorted.Tensor: searchsorted}


@contextmanager
def quiet() -> Iterator[None]:
    """Keep to itself what the exporter says of its own future and of its progress."""
    logger = logging.getLogger('torch.onnx')
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            yield
    finally:
        logger.setLevel(before)


def why(error: BaseException, name: str) -> str:
    """What the exporter's pages of text say, in one sentence.

    Args:
        error (BaseException): Of ``torch.onnx``.
        name (str): Of the graph.

    Returns:
        str: The operator that ONNX lacks, or the first line of the first cause.
    """
    causes = [error]
    while causes[-1].__cause__ is not None:
        causes.append(causes[-1].__cause__)
    first = causes[-1]
    for cause in reversed(causes):
        found = _OPERATOR.search(str(cause))
        if found and 'No ONNX function' in str(cause):
            operator = found[1] or found[2]
            return (
                f'{name} needs the operator {operator}, which ONNX lacks; nothing was '
                'written: leave out the part of the model that uses it.'
            )
    line = (str(first).strip().splitlines() or [type(first).__name__])[0]
    return (
        f'{name} cannot be traced for ONNX ({type(first).__name__}: {line}); nothing '
        'was written: --debug shows where.'
    )
