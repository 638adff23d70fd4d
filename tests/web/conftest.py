"""A page of tiny models that is served, for the tests that ask it."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import numpy as np
import pytest
import tiny_mergevq as tiny
import torch
from test_streaming import build_mergear

from mergevq_mm.apis import (
    EditingInferencer,
    GenerationInferencer,
    ReconstructionInferencer,
)
from mergevq_mm.registry import MODELS
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
def edit() -> EditingInferencer:
    """A RandAR that draws each of the 16 places."""
    torch.manual_seed(0)
    tokenizer = dict(
        type='mergevq_mm.FrozenTokenizer', model=tiny.model_cfg(), random_init=True
    )
    model = MODELS.build(
        dict(
            type='mergevq_mm.RandAR',
            tokenizer=tokenizer,
            arch=dict(embed_dims=32, num_layers=1, num_heads=2, ffn_multiple=16),
            num_classes=4,
            keep=dict(target=16, candidates=[9, 16]),
        )
    )
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return EditingInferencer(model.eval(), device='cpu', show_progress=False)


@pytest.fixture(scope='session')
def address(
    reconstruct: ReconstructionInferencer,
    edit: EditingInferencer,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[str]:
    """Where the page is served, with all tabs and three examples."""
    pytest.importorskip('gradio', reason='needs gradio, the extra web')
    generator = build_mergear(tmp_path_factory.mktemp('mergear'))
    generate = GenerationInferencer(generator, device='cpu', show_progress=False)
    rng = np.random.default_rng(0)
    examples = [rng.integers(0, 256, (8, 8, 3), dtype=np.uint8) for _ in range(3)]
    served = build_page(reconstruct, generate, examples, edit)
    port = free_port()
    launch(served, '127.0.0.1', port)
    yield f'http://127.0.0.1:{port}'
    served.close()
