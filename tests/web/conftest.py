"""A page of tiny models that is served, for the tests that ask it."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import numpy as np
import pytest
import tiny_mergevq as tiny
import torch
from test_streaming import build_mergear

from mergevq_mm.apis import GenerationInferencer, ReconstructionInferencer
from mergevq_mm.web import build_page
from mergevq_mm.web.page import launch


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as bound:
        bound.bind(('127.0.0.1', 0))
        return bound.getsockname()[1]


@pytest.fixture(scope='session')
def reconstruct() -> ReconstructionInferencer:
    torch.manual_seed(0)
    return ReconstructionInferencer(
        tiny.build_model().eval(), device='cpu', show_progress=False
    )


@pytest.fixture(scope='session')
def address(
    reconstruct: ReconstructionInferencer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """Where the page is served, with both tabs and three examples."""
    pytest.importorskip('gradio', reason='needs gradio, the extra web')
    generator = build_mergear(tmp_path_factory.mktemp('mergear'))
    generate = GenerationInferencer(generator, device='cpu', show_progress=False)
    rng = np.random.default_rng(0)
    examples = [rng.integers(0, 256, (8, 8, 3), dtype=np.uint8) for _ in range(3)]
    served = build_page(reconstruct, generate, examples)
    port = free_port()
    launch(served, '127.0.0.1', port)
    yield f'http://127.0.0.1:{port}'
    served.close()
