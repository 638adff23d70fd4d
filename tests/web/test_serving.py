"""What the command makes of its models before it serves them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_generator
import tiny_mergevq as tiny
import torch
from test_streaming import build_mergear

from mergevq_mm.apis import GenerationInferencer
from mergevq_mm.web import serving
from mergevq_mm.web.serving import draw_examples, serve


class Page:
    """Keeps what it is built of, and does not wait."""

    def __init__(self, *parts: Any) -> None:
        self.reconstruct, self.generate, self.examples, self.edit = parts

    def block_thread(self) -> None:
        pass


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[Page]:
    pages: list[Page] = []

    def build(*parts: Any) -> Page:
        pages.append(Page(*parts))
        return pages[-1]

    monkeypatch.setattr(serving, 'import_gradio', lambda: None)
    monkeypatch.setattr(serving, 'build_page', build)
    monkeypatch.setattr(serving, 'launch', lambda *_: None)
    monkeypatch.setattr(serving.signal, 'signal', lambda *_: None)
    return pages


def test_a_generator_brings_its_tab_and_examples(
    built: list[Page], tmp_path: Path
) -> None:
    model = build_mergear(tmp_path)
    serve(dict(model=model, device='cpu'))
    page = built[0]
    assert page.generate.model is model and page.reconstruct.model is model
    assert page.edit.model is model
    assert len(page.examples) == 4  # one of each class
    right = [r['image'] for r in page.generate(range(4), batch_size=1)]
    assert np.array_equal(page.examples, right)
    assert len(draw_examples(page.generate, seconds=0)) == 1


def test_examples_that_are_given_stay(built: list[Page], tmp_path: Path) -> None:
    tiny.write_images(tmp_path, per_class=20)
    serve(dict(model=build_mergear(tmp_path), device='cpu'), examples=[tmp_path])
    assert len(built[0].examples) == serving.MAX_EXAMPLES
    assert built[0].examples[0].shape == (10, 10, 3)


def test_a_tokenizer_has_one_tab(built: list[Page]) -> None:
    torch.manual_seed(0)
    serve(dict(model=tiny.build_model(), device='cpu'))
    page = built[0]
    assert page.generate is None and page.edit is None and page.examples == []


def test_a_generator_that_cannot_be_watched(
    built: list[Page], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """Its tokenizer is shown, and it edits."""
    model = build_mergear(tmp_path)
    model.sequence = 'distinct'
    serve(dict(model=model, device='cpu'))
    serve(dict(model=tiny.build_model(), device='cpu'), dict(model=model, device='cpu'))
    for page in built:
        assert page.generate is None and page.edit.model is model
    assert 'Without a tab to generate: MergeAR' in capsys.readouterr().out
    fake = GenerationInferencer(tiny_generator.build(), device='cpu')
    assert draw_examples(fake)[0].shape == (8, 8, 3)
