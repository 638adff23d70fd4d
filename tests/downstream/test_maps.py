"""The maps that detectors and segmenters see: strides, sizes, merging."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from safetensors.torch import load_file
from tiny_downstream import CONFIGS, build, shrink_backbone

from mergevq_mm.models.utils.group_map import recover_tokens
from mergevq_mm.utils.shipped import FOLDER

PATHS = sorted(CONFIGS.glob('mm*/*.py'))
MERGED = [path for path in PATHS if path.stem.endswith('_keep50')]
STRIDES = {
    'mask-rcnn': (4, 8, 16, 32, 64),
    'retinanet': (8, 16, 32, 64, 128),
    'upernet_mergevq-r': (4, 8, 16, 32),
    'upernet_mergevq-g+r': (4, 8, 16, 16),
    'fcn': (16, 16),
}


def strides(path: Path) -> tuple[int, ...]:
    """The strides that a config promises."""
    return next(value for key, value in STRIDES.items() if path.stem.startswith(key))


@pytest.mark.parametrize('path', PATHS, ids=lambda path: path.stem)
@torch.no_grad()
def test_full_size_network(path: Path) -> None:
    """Channels, strides and anchors fit at full width and at COCO's usual size.

    On the meta device, which computes shapes alone.
    """
    cfg = Config.fromfile(path)
    with torch.device('meta'):
        model = build(cfg).eval()
        x = torch.empty(1, 3, 800, 1344)
        features = model.extract_feat(x)
        if cfg.default_scope == 'mmseg':
            logits = model.decode_head(features)
            assert model.auxiliary_head(features).shape[1] == 150
            stride = strides(path)[0]
            assert logits.shape == (1, 150, 800 // stride, 1344 // stride)
        else:
            head = model.bbox_head if 'retina' in path.stem else model.rpn_head
            scores, boxes = head(features)
            for stride, score, box in zip(strides(path), scores, boxes):
                size = (-(-800 // stride), -(-1344 // stride))
                assert score.shape[2:] == box.shape[2:] == size
            made = head.prior_generator.strides
            assert tuple(stride for stride, _ in made) == strides(path)
    assert len(features) == len(strides(path))
    for stride, feature in zip(strides(path), features):
        assert feature.shape[2:] == (-(-800 // stride), -(-1344 // stride))


@pytest.mark.parametrize('path', MERGED, ids=lambda path: path.stem)
@torch.no_grad()
def test_merged_maps_are_constant_on_groups(path: Path) -> None:
    """Positions of one group share a vector, and half of the tokens are left.

    The image is neither square nor of the size of the position embedding.
    """
    cfg = Config.fromfile(path)
    shrink_backbone(cfg)
    cfg.model = cfg.model.backbone
    backbone = build(cfg).eval()
    for parameter in backbone.parameters():
        parameter.add_(0.05 * torch.randn_like(parameter))
    x = torch.randn(2, 3, 144, 208)
    maps = backbone(x)
    merged = backbone.encode(x, keep=0.5)
    length, number = 9 * 13, round(0.5 * 9 * 13)
    assert merged.tokens.shape[1] == number
    last = maps[-1].flatten(2)  # B×D×L
    assert torch.equal(last, recover_tokens(merged.tokens, merged.group).mT)
    for b in range(2):
        group = merged.group[b].tolist()
        vectors: dict[int, torch.Tensor] = {}
        for position in range(length):
            vector = vectors.setdefault(group[position], last[b, :, position])
            assert torch.equal(last[b, :, position], vector)
        assert len(vectors) == number
        assert len(last[b].T.unique(dim=0)) == number
    # Earlier blocks have merged as much as their part of the schedule, and stages of
    # the stem nothing.
    left = [length - sum(backbone.plan((9, 13), 0.5)[: i + 1]) for i in range(12)]
    stages = len(backbone.out_stages)
    for i, feature in zip(sorted(backbone.out_indices), maps[stages:]):
        assert feature.shape[2:] == (9, 13)
        assert len(feature[1].flatten(1).T.unique(dim=0)) == left[i]
    plain = backbone(x, keep=1.0)
    for stage, feature, same in zip(backbone.out_stages, maps, plain):
        assert feature.shape[2:] == (144 // 2**stage, 208 // 2**stage)
        assert torch.equal(feature, same)
    assert len(plain[-1][0].flatten(1).T.unique(dim=0)) == length


@pytest.mark.parametrize(
    'name',
    [
        'mmseg/fcn_mergevq-g+r_4xb4-160k_ade20k-512x512.py',
        'mmdet/retinanet_mergevq-g+r_fpn_1x_coco.py',
    ],
)
@torch.no_grad()
def test_the_encoder_of_a_folder_in_one_line(name: str) -> None:
    """Architecture and weights are those of the folder, here of a shipped model."""
    cfg = Config.fromfile(CONFIGS / name)
    backbone = dict(type='mergevq_mm.PublishedEncoder', folder='digits')
    cfg.model.backbone = {**backbone, 'out_type': 'featmap', 'out_indices': (3, 5)}
    if 'decode_head' in cfg.model:
        for head in (cfg.model.decode_head, cfg.model.auxiliary_head):
            head.update(in_channels=64, channels=8)
    else:
        cfg.model.neck.in_channels = [64, 64]
    model = build(cfg)
    model.init_weights()
    weights = load_file(FOLDER / 'digits' / 'tokenizer' / 'model.safetensors')
    for key, value in model.backbone.state_dict().items():
        assert torch.equal(value, weights[f'backbone.{key}'].to(value.dtype)), key
    maps = model.eval().backbone(torch.rand(1, 3, 64, 96))
    assert [feature.shape for feature in maps] == [(1, 64, 16, 24)] * 2
    assert model.extract_feat(torch.rand(1, 3, 64, 96))[0].shape[2:] == (16, 24)
