"""The encoder of a published folder as a backbone of others."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny_mergevq as tiny
import torch
from mmengine.config import Config
from mmengine.model import BaseModel
from torch import nn

import mergevq_mm
from mergevq_mm.models import MergeVQEncoder, published_encoder
from mergevq_mm.registry import MODELS
from mergevq_mm.utils.config_check import check_config


@pytest.fixture(scope='module')
def tokenizer() -> nn.Module:
    torch.manual_seed(0)
    return tiny.build_model().eval()


@pytest.fixture(scope='module')
def folder(tokenizer: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp('published') / 'tokenizer'
    config = Config(dict(model=tiny.model_cfg()))
    return mergevq_mm.save_pretrained(tokenizer, target, config)


@torch.no_grad()
def test_one_line_is_the_encoder_of_the_folder(
    tokenizer: nn.Module, folder: Path
) -> None:
    images = torch.rand(2, 3, tiny.SIZE, tiny.SIZE) * 2 - 1
    expected = tokenizer.backbone.encode(images, 9)
    for encoder in (
        published_encoder(folder),
        MODELS.build(dict(type='mergevq_mm.PublishedEncoder', folder=str(folder))),
    ):
        assert isinstance(encoder, MergeVQEncoder)
        for found, right in zip(encoder.eval().encode(images, 9), expected):
            assert found == right if isinstance(right, tuple) else found.equal(right)
    changed = published_encoder(folder, out_type='avg_featmap', frozen_stages=1)
    assert changed(images)[0].shape == (2, tiny.DIMS)
    assert not any(p.requires_grad for p in changed.layers[0].parameters())
    empty = published_encoder(folder, init_cfg=None)
    assert not empty.stem.state_dict().keys() ^ changed.stem.state_dict().keys()


def test_weights_stay_when_a_runner_initialises(folder: Path) -> None:
    class Detector(BaseModel):
        def __init__(self) -> None:
            super().__init__(init_cfg=dict(type='Normal', layer='Linear', std=9.0))
            backbone = dict(type='mergevq_mm.PublishedEncoder', folder=folder)
            self.backbone = MODELS.build(backbone)

        def forward(self, *args: object) -> None: ...

    model = Detector()
    before = tiny.clone_state(model.backbone)
    model.init_weights()
    for name, value in model.backbone.state_dict().items():
        assert torch.equal(value, before[name])


def test_a_generator_lends_that_of_its_tokenizer(
    tokenizer: nn.Module, folder: Path, tmp_path: Path
) -> None:
    generator = dict(
        type='mergevq_mm.RandAR',
        arch=dict(
            embed_dims=32, num_layers=1, num_heads=2, ffn_multiple=32, head_layers=1
        ),
        num_classes=3,
        keep=dict(target=9, candidates=[9, 16]),
        tokenizer=dict(
            type='mergevq_mm.FrozenTokenizer',
            model=str(folder / 'config.py'),
            checkpoint=str(folder / 'model.safetensors'),
        ),
    )
    model = MODELS.build(generator)
    model.tokenizer.init_weights()
    saved = mergevq_mm.save_pretrained(model, tmp_path / 'g', dict(model=generator))
    expected = tokenizer.backbone.state_dict()
    for name, value in published_encoder(saved).state_dict().items():
        assert torch.equal(value, expected[name])


def test_what_is_no_folder_or_argument(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match='has no config.json; give a folder'):
        published_encoder(tmp_path)
    with pytest.raises(ValueError, match="out_type='avg' is"):
        published_encoder(folder, out_type='avg')
    model = dict(
        type='mmpretrain.ImageClassifier',
        backbone=dict(type='mergevq_mm.PublishedEncoder', folder=str(folder)),
    )
    check_config(Config(dict(model=model, default_scope='mmpretrain')))
