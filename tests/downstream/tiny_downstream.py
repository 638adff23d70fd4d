"""Photographs in the layouts of COCO and ADE20K, and shrunk configs that read them."""

from __future__ import annotations

import importlib
import importlib.util
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import MODELS as ROOT
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from PIL import Image, ImageDraw

from mergevq_mm.registry import MODELS
from mergevq_mm.utils import config as config_utils

CONFIGS = Path(__file__).parents[2] / 'configs' / 'downstream'
# File, size in pixels (not square, most of them odd), class of COCO and of ADE20K, and
# a made-up ellipse around the object: centre and half axes in parts of the image.
PHOTOGRAPHS = {
    'astronaut': ('skimage', 'data/astronaut.png', (131, 112), 'person', 13),
    'chelsea': ('skimage', 'data/chelsea.png', (145, 97), 'cat', 127),
    'coffee': ('skimage', 'data/coffee.png', (150, 101), 'cup', 126),
    'rocket': ('skimage', 'data/rocket.jpg', (97, 143), 'airplane', 85),
    'flower': ('sklearn', 'datasets/images/flower.jpg', (145, 99), 'potted plant', 67),
}
ELLIPSES = {
    'astronaut': (0.43, 0.25, 0.17, 0.22),
    'chelsea': (0.49, 0.40, 0.27, 0.35),
    'coffee': (0.48, 0.50, 0.30, 0.40),
    'rocket': (0.50, 0.50, 0.12, 0.40),
    'flower': (0.50, 0.50, 0.35, 0.38),
}
WALL = 1  # class of ADE20K around the object; 0 is unlabelled


def has_ops() -> bool:
    """Whether mmcv's compiled operators are there, and not our stand-in for them."""
    return getattr(importlib.import_module('mmcv._ext'), '__file__', None) is not None


# ------------------------------------------------------------------------- data


def outline(name: str) -> list[tuple[float, float]]:
    """The ellipse of a photograph as a polygon in pixels."""
    width, height = PHOTOGRAPHS[name][2]
    x, y, a, b = ELLIPSES[name]
    angles = [2 * math.pi * i / 24 for i in range(24)]
    return [
        (width * (x + a * math.cos(t)), height * (y + b * math.sin(t))) for t in angles
    ]


def write_photographs(root: Path) -> Path:
    """Write images, ``coco.json`` and segmentation maps for training and validation.

    Args:
        root (Path): Where ``images/*.jpg``, ``maps/*.png`` and ``coco.json`` go.

    Returns:
        Path: The same folder.
    """
    from mmdet.datasets import CocoDataset

    (root / 'images').mkdir()
    (root / 'maps').mkdir()
    classes = CocoDataset.METAINFO['classes']
    coco: dict[str, list] = {
        'images': [],
        'annotations': [],
        'categories': [{'id': i + 1, 'name': name} for i, name in enumerate(classes)],
    }
    for number, (name, row) in enumerate(PHOTOGRAPHS.items(), start=1):
        package, file, size, category, label = row
        source = Path(importlib.util.find_spec(package).origin).parent / file
        image = Image.open(source).convert('RGB').resize(size, Image.Resampling.BOX)
        image.save(root / 'images' / f'{name}.jpg', quality=95)
        polygon = outline(name)
        marks = Image.new('L', size, WALL)
        ImageDraw.Draw(marks).polygon(polygon, fill=label)
        marks.paste(0, (0, 0, 5, size[1]))  # a strip without a label
        marks.save(root / 'maps' / f'{name}.png')
        points = np.array(polygon)
        left, top = points.min(axis=0)
        width, height = points.max(axis=0) - (left, top)
        coco['images'].append(
            {
                'id': number,
                'file_name': f'{name}.jpg',
                'width': size[0],
                'height': size[1],
            }
        )
        coco['annotations'].append(
            {
                'id': number,
                'image_id': number,
                'category_id': classes.index(category) + 1,
                'bbox': [left, top, width, height],
                'area': float((np.array(marks) == label).sum()),
                'segmentation': [points.ravel().tolist()],
                'iscrowd': 0,
            }
        )
    (root / 'coco.json').write_text(json.dumps(coco))
    return root


# --------------------------------------------------------------------- networks


def shrink_backbone(cfg: Config) -> int:
    """Narrow the encoder, with all its blocks and strides; LayerScale 1.

    Returns:
        int: By what the channels were divided.
    """
    backbone = cfg.model.backbone
    if backbone.arch == 'r-base':
        divisor = 16
        arch = {'stem': 'patch', 'embed_dims': 48, 'patch_size': 16}
    else:
        assert backbone.arch == 'g+r-d64'
        divisor = 8
        arch = {
            'stem': 'hybrid',
            'base_channels': 8,
            'channel_mult': (1, 1, 2, 4, 8),
            'num_res_blocks': 1,
            'norm_groups': 4,
        }
    backbone.arch = {**arch, 'num_layers': 12, 'num_heads': 4}
    # Else the new branches would hide behind 1e-5, and chance could drop them.
    backbone.update(layer_scale=1.0, drop_path_rate=0.0)
    return divisor


def divide(value: int | list[int], divisor: int) -> int | list[int]:
    """Channels, or a list of them, over the divisor."""
    if isinstance(value, int):
        return value // divisor
    return [number // divisor for number in value]


def save_encoder(cfg: Config, path: Path) -> dict[str, torch.Tensor]:
    """Make ``init_cfg`` load an encoder saved as stage 1 saves it.

    Returns:
        dict[str, Tensor]: Its weights.
    """
    backbone = {k: v for k, v in cfg.model.backbone.items() if k != 'init_cfg'}
    encoder = MODELS.build(backbone)
    encoder.init_weights()
    state = {f'backbone.{k}': v for k, v in encoder.state_dict().items()}
    torch.save({'state_dict': {**state, 'decoder.weight': torch.zeros(1)}}, path)
    cfg.model.backbone.init_cfg.checkpoint = str(path)
    return encoder.state_dict()


def build(cfg: Config) -> torch.nn.Module:
    """The model of a config, as a run would build it."""
    init_default_scope(cfg.default_scope)
    return ROOT.build(cfg.model)


# ------------------------------------------------------------------------- runs


def complete(cfg: Config, work_dir: Path) -> Config:
    """What ``tools/train.py`` does to a config, for a short run without workers."""
    for loader in (cfg.train_dataloader, cfg.val_dataloader):
        loader.update(num_workers=0, persistent_workers=False)
    cfg.update(work_dir=str(work_dir), experiment_name=work_dir.name)
    cfg.update(log_level='WARNING', randomness={'seed': 0})
    cfg.test_dataloader = cfg.test_evaluator = cfg.test_cfg = None
    cfg.default_hooks.logger.interval = 1
    config_utils.complete_dataloaders(cfg)
    config_utils.adapt_to_device(cfg)
    config_utils.complete_hooks(cfg)
    return cfg


class StartsFrom(Hook):
    """Refuse a run that does not start from these weights of the encoder."""

    def __init__(self, weights: dict[str, torch.Tensor]) -> None:
        self.weights = weights

    def before_train(self, runner: Runner) -> None:
        """Compare, once the weights are initialised."""
        state = runner.model.backbone.state_dict()
        assert state.keys() == self.weights.keys()
        for name, value in state.items():
            assert torch.equal(value, self.weights[name]), name


def losses(runner: Runner, name: str = 'loss') -> np.ndarray:
    """The loss of each iteration of a run."""
    return np.array(runner.message_hub.get_scalar(f'train/{name}').data[0])


def check_rates(runner: Runner, arch: str) -> None:
    """The encoder's learning rates are those that the config asks for."""
    names = {id(p): n for n, p in runner.model.named_parameters()}
    groups: dict[str, dict[str, Any]] = {
        names[id(group['params'][0])]: group
        for group in runner.optim_wrapper.optimizer.param_groups
    }
    head = max(group['lr'] for group in groups.values())
    decay = max(group['weight_decay'] for group in groups.values())
    assert decay == 0.05
    power = 0.7 if arch == 'patch' else 1.0
    for name, group in groups.items():
        depth = 0
        if name.startswith('backbone.layers.'):
            depth = 12 - int(name.split('.')[2])
        elif name.startswith('backbone.'):
            depth = 13
        assert math.isclose(group['lr'], head * power**depth, rel_tol=1e-9), name
        bare = name.endswith(('gamma', 'cls_token', 'pos_embed'))
        if bare or (name.startswith('backbone.') and '.norm' in name):
            assert group['weight_decay'] == 0, name
        if name.endswith(('qkv.weight', 'fc1.weight', 'projection.weight')):
            assert group['weight_decay'] == decay, name
