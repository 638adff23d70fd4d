"""The small tier's classes do what those of OpenMMLab do for a trained model."""

from __future__ import annotations

import copy
import pickle

import mmcv
import mmengine.config
import mmengine.model
import mmpretrain.models.backbones.base_backbone
import numpy as np
import pytest
import torch
from mmpretrain.models.utils import (
    build_2d_sincos_position_embedding,
    resize_pos_embed,
)
from torch import nn

from mergevq_mm import base
from mergevq_mm.apis.plain_transforms import pad, plain_transform
from mergevq_mm.base import algorithm, config, inferencer, module, process, registry
from mergevq_mm.base.small.config import Config
from mergevq_mm.base.small.module import BaseModel, BaseModule
from mergevq_mm.base.small.registry import Registry, Roots
from mergevq_mm.base.tier import MissingExtra
from mergevq_mm.models.backbones.positions import resize_positions, sincos_positions
from mergevq_mm.registry import MODELS, TRANSFORMS


def test_with_openmmlab_the_classes_are_its_own() -> None:
    import mmengine.infer

    assert base.__doc__ and module.BaseModule is mmengine.model.BaseModule
    assert module.BaseModel is mmengine.model.BaseModel
    backbone = mmpretrain.models.backbones.base_backbone.BaseBackbone
    assert algorithm.BaseBackbone is backbone
    assert registry.Registry is type(MODELS) is mmengine.registry.Registry
    assert config.Config is mmengine.config.Config
    assert inferencer.BaseInferencer is mmengine.infer.BaseInferencer
    assert process.current_iteration() == 0


OVERRIDES = (
    {'model': {'a': {'x': 5}}},
    {'model.a.x': 5, 'model.b.1.c': 7},
    {'model': {'a': {'_delete_': True, 'y': 5}}},
    {'model': {'c': {'d': {'e': 1}}}},
)


@pytest.mark.parametrize('options', OVERRIDES)
def test_config_merges_as_mmengine(options: dict) -> None:
    content = {'model': {'a': {'x': 1, 'z': (1, 2)}, 'b': [1, {'c': 2}, 3]}}
    own, theirs = Config(content), mmengine.config.Config(copy.deepcopy(content))
    own.merge_from_dict(copy.deepcopy(options))
    theirs.merge_from_dict(copy.deepcopy(options))
    assert own.to_dict() == theirs.to_dict()
    assert content['model']['a'] == {'x': 1, 'z': (1, 2)}


def test_config_has_attributes_and_is_copied() -> None:
    found = Config({'model': {'type': 'A', 'parts': [{'x': 1}]}})
    assert found.model.type == 'A' and found.model.parts[0].x == 1
    assert found.get('other') is None and not hasattr(found, 'other')
    found.metadata = {'y': 2}
    for same in (copy.deepcopy(found), pickle.loads(pickle.dumps(found))):
        assert type(same) is Config and same == found and same.metadata.y == 2
        assert same.model is not found.model
    with pytest.raises(TypeError, match='_delete_'):
        found.merge_from_dict({'model.type': {'x': 1}})
    with pytest.raises(KeyError, match='Index 4'):
        found.merge_from_dict({'model.parts.4': 1})
    with pytest.raises(MissingExtra, match=r'"a\.py" needs OpenMMLab'):
        Config.fromfile('a.py')


def test_registry_builds_by_name() -> None:
    models = Registry('model', Roots().MODELS, 'ours')

    @models.register_module()
    @models.register_module(name='Other')
    class Part:
        def __init__(self, width: int) -> None:
            self.width = width

    assert models.build({'type': 'ours.Part', 'width': 3}).width == 3
    assert models.build({'type': 'Other'}, width=4).width == 4
    assert models.build({'type': lambda: 5}) == 5
    assert set(models.module_dict) == {'Part', 'Other'} and 'Nothing' not in models
    with pytest.raises(KeyError, match='ours::model'):
        models.build({'type': 'Nothing'})
    with pytest.raises(KeyError, match='already'):
        models.register_module(module=Part)
    with pytest.raises(MissingExtra, match='mmpretrain.ResNet'):
        models.build({'type': 'mmpretrain.ResNet'})


def test_modules_are_initialised_by_their_own_code() -> None:
    class Part(BaseModule):
        def init_weights(self) -> None:
            self.drawn = True
            super().init_weights()

    model = BaseModel()
    model.part = Part()
    model.init_weights()
    assert model.part.drawn and model.part.is_init and model.is_init
    model.to(torch.device('meta'))
    assert model.data_preprocessor.device.type == 'meta'
    assert not model.state_dict()
    with pytest.raises(MissingExtra, match='init_cfg=.* needs OpenMMLab'):
        Part({'type': 'Normal', 'layer': nn.Linear}).init_weights()


@pytest.mark.parametrize(
    'step',
    [
        dict(type='ResizeEdge', scale=20, interpolation='bicubic'),
        dict(type='ResizeEdge', scale=33, edge='long', interpolation='lanczos'),
        dict(type='ResizeEdge', scale=7, edge='height'),
        dict(type='Resize', scale=(19, 31), interpolation='nearest'),
        dict(type='Resize', scale=25, interpolation='box'),
        dict(type='CenterCrop', crop_size=17),
        dict(type='CenterCrop', crop_size=(90, 12)),
    ],
)
@pytest.mark.parametrize('shape', [(29, 47, 3), (64, 21, 3)])
def test_plain_transforms_are_those_of_openmmlab(step: dict, shape: tuple) -> None:
    image = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    if step['type'] != 'CenterCrop':
        step = {**step, 'backend': 'pillow'}
    step = {**step, 'type': f'mmpretrain.{step["type"]}'}
    wanted = TRANSFORMS.build(step)({'img': image})['img']
    found = plain_transform(step)({'img': image})
    assert (found['img'] == wanted).all() and found['img_shape'] == wanted.shape[:2]


def test_transforms_that_need_openmmlab() -> None:
    for step in (dict(type='ResizeEdge', scale=8), dict(type='Flip')):
        with pytest.raises(MissingExtra, match=step['type']):
            plain_transform(step)


@pytest.mark.parametrize('grey', [0, 7, (1, 2, 3)])
def test_borders_are_those_of_mmcv(grey: int | tuple) -> None:
    image = np.random.default_rng(0).integers(0, 256, (5, 4, 3), dtype=np.uint8)
    wanted = mmcv.impad(image, padding=(1, 2, 0, 3), pad_val=grey)
    assert (pad(image, (1, 2, 0, 3), grey) == wanted).all()


@pytest.mark.parametrize('target', [(4, 6), (3, 3), (9, 2)])
def test_positions_are_those_of_mmpretrain(target: tuple[int, int]) -> None:
    # mmpretrain's runs through the heights fastest: named the other way round, it
    # runs through the columns, as a raster does.
    wanted = build_2d_sincos_position_embedding(target[::-1], 8)
    assert (sincos_positions(target, 8) == wanted).all()
    table = torch.randn(1, 24, 8, dtype=torch.float16)
    wanted = resize_pos_embed(table, (4, 6), target, 'bicubic', num_extra_tokens=0)
    found = resize_positions(table, (4, 6), target)
    assert (found == wanted).all() and found.is_contiguous()
