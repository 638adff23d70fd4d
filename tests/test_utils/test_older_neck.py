"""Weights of a recovery of before the order of the codes was known to it."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from tiny_mergevq import BITS, build_model, model_cfg
from torch import Tensor, nn

from mergevq_mm.apis import from_pretrained, get_model, save_pretrained
from mergevq_mm.models.generators.tokenizer import FrozenTokenizer
from mergevq_mm.models.necks import SourceRecovery
from mergevq_mm.utils import older_neck
from mergevq_mm.utils.checkpoint import check_state_dict_matches, load_pretrained


@pytest.fixture(autouse=True)
def told(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is said of such weights."""
    said: list[str] = []

    def print_log(text: str, level: int, **kwargs: object) -> None:
        assert level == logging.WARNING
        said.append(text)

    older_neck._tell.cache_clear()
    monkeypatch.setattr(older_neck, 'print_log', print_log)
    return said


def older(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {k: v.clone() for k, v in state.items() if not k.endswith('order.weight')}


def blind_scores(neck: SourceRecovery, codes: Tensor) -> Tensor:
    """What a neck of then computes."""
    memory = neck.embed(codes)
    query = neck.query.flatten(2).transpose(1, 2).expand(len(codes), -1, -1)
    keys = neck.key(memory).transpose(1, 2)
    return neck.layers(query, memory) @ keys / keys.shape[1] ** 0.5


@torch.no_grad()
def test_a_strict_load_gives_the_neck_of_then_and_says_so(told: list[str]) -> None:
    kwargs = {'embed_dims': 16, 'num_heads': 2, 'feedforward_channels': 32}
    trained, neck = (SourceRecovery(BITS, (4, 4), **kwargs).eval() for _ in range(2))
    state = older(trained.state_dict())
    names = set(state)
    for _ in range(2):
        assert set(state) == names
        neck.load_state_dict(dict(state), strict=True)
    (text,) = told  # once
    assert 'before it knew the order' in text and 'source_recovery.py' in text
    codes = torch.randint(2, (2, 9, BITS)) * 2.0 - 1
    assert torch.equal(neck.scores(codes, (4, 4)), blind_scores(trained, codes))
    assert not torch.equal(neck.scores(codes, (4, 4)), trained.scores(codes, (4, 4)))


def test_weights_that_know_the_order_are_loaded_without_a_word(
    told: list[str],
) -> None:
    model = build_model()
    model.load_state_dict(model.state_dict())
    assert not told


def test_other_parts_with_an_order_are_left_alone(told: list[str]) -> None:
    part = nn.ModuleDict({'order': nn.Linear(2, 2, bias=False)})
    state: dict[str, Tensor] = {}
    older_neck.complete_older_neck(state, part.state_dict())
    assert not state and not told


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """A checkpoint and a published folder of then."""
    model = build_model()
    state = older(model.state_dict())
    torch.save({'state_dict': state}, tmp_path / 'older.pth')
    save_pretrained(model, tmp_path / 'folder', model_cfg())
    from safetensors.torch import load_file, save_file

    weights = tmp_path / 'folder' / 'model.safetensors'
    save_file(older(load_file(weights)), weights)
    return {'checkpoint': tmp_path / 'older.pth', 'folder': tmp_path / 'folder'}


def test_each_way_to_load_takes_them(files: dict[str, Path], told: list[str]) -> None:
    state = torch.load(files['checkpoint'])['state_dict']
    model, checkpoint = build_model(), {'state_dict': dict(state)}
    check_state_dict_matches(model, checkpoint, complete=True)  # tools/test.py
    assert not checkpoint['state_dict']['neck.order.weight'].any()
    report = load_pretrained(model, files['checkpoint'], min_matched=1.0)
    assert not report.missing and not model.neck.order.weight.any()
    for built in (
        get_model(Config({'model': model_cfg()}), pretrained=str(files['checkpoint'])),
        from_pretrained(str(files['folder'])),
    ):
        assert not built.neck.order.weight.any()
    assert len(told) == 1


def test_a_tokenizer_of_then_keeps_its_fingerprint(
    files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = FrozenTokenizer(model_cfg(), files['checkpoint'])
    found = tokenizer.fingerprint()
    state = tokenizer.network.state_dict()
    del state['neck.order.weight']
    monkeypatch.setattr(type(tokenizer.network), 'state_dict', lambda self: state)
    assert tokenizer.fingerprint() == found
    monkeypatch.undo()
    nn.init.ones_(tokenizer.network.neck.order.weight)
    assert tokenizer.fingerprint() != found
