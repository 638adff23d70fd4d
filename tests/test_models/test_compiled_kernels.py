"""What a compiler makes of a block that merges: how many kernels beyond a plain one.

Inductor plans for a CPU here, up to the code that it would compile; the operators are
those that a GPU gets. What it has fused, and each operator of a library, is a kernel.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mergevq_mm.models.utils import merging_operators
from mergevq_mm.models.utils.attention import MergingBlock


class Planned(Exception):
    """Inductor has planned, and need not compile."""


@pytest.fixture
def plans(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Kinds of the kernels of each graph that is compiled meanwhile."""
    from torch._inductor.graph import GraphLowering

    found: list[list[str]] = []

    def stop(graph: GraphLowering) -> None:
        graph.codegen()
        kinds = [
            (type(node).__name__, type(getattr(node, 'node', None)).__name__)
            for node in graph.scheduler.nodes
        ]
        found.append(
            [kind for kind, of in kinds if kind[:3] != 'Nop' and of != 'MultiOutput']
        )
        raise Planned

    monkeypatch.setattr(GraphLowering, 'compile_to_module', stop)
    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    ('way', 'limit'),
    [('kernels', 6), ('without Triton', 12)],
)
def test_a_merging_block_is_few_kernels_more(
    way: str, limit: int, plans: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    if way == 'kernels':
        monkeypatch.setattr(merging_operators, 'DEVICES', ('cpu', 'cuda'))
    else:
        by_product = merging_operators.add_rows_by_product
        monkeypatch.setattr(merging_operators, 'add_rows', by_product)
    block, size = MergingBlock(64, 4).eval(), torch.rand(2, 65) + 1

    def run(x: Tensor, size: Tensor, r: int) -> tuple[Tensor, ...]:
        x, size, matches = block(x, size, (), r)
        return (x, size, *(part for match in matches for part in match))

    for r in (0, 16):
        torch._dynamo.reset()
        with torch.no_grad(), pytest.raises(Exception, match='Planned'):
            torch.compile(run, fullgraph=True)(torch.randn(2, 65, 64), size, r)
    plain, merging = plans
    assert len(merging) - len(plain) <= limit, (plain, merging)
