"""Makes a training config runnable without data and without weights, for timing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config

from mergevq_mm.registry import MODELS


def view_sizes(cfg: Config, img_size: int | None) -> list[int]:
    """Sizes of the views after the image in the config's training pipeline.

    Args:
        cfg (Config): The config, not shrunk yet.
        img_size (int, optional): Another image size: the views keep their proportion to
            it, rounded to whole tokens. Defaults to None.

    Returns:
        list[int]: Pixels of each further view; none where the pipeline makes none.
    """
    pipeline = cfg.get('train_dataloader', {}).get('dataset', {}).get('pipeline', [])
    for transform in pipeline:
        if transform['type'].split('.')[-1] == 'MultiView':
            sizes = []
            views = zip(transform['num_views'], transform['transforms'])
            for number, steps in views:
                sizes += [_size_after(steps)] * number
            return [_scaled(cfg, size, img_size) for size in sizes[1:]]
    return []


def _size_after(steps: list[dict]) -> int:
    """Size of the images that a pipeline of crops and resizes makes."""
    for step in reversed(steps):
        size = step.get('crop_size', step.get('scale'))
        if size is not None:
            return size if isinstance(size, int) else size[0]
    raise ValueError(
        'the training pipeline names neither crop_size nor scale for a view; give '
        '--view-sizes.'
    )


def _scaled(cfg: Config, size: int, img_size: int | None) -> int:
    """A view's size for another image size, a multiple of the stride."""
    before = cfg.model.backbone.get('img_size', 256)
    if img_size is None or img_size == before:
        return size
    stride = _stride(cfg)
    return max(round(size * img_size / before / stride), 1) * stride


def _stride(cfg: Config) -> int:
    """Pixels a token, without keeping the backbone that knows it."""
    return MODELS.get('mergevq_mm.MergeVQEncoder')(cfg.model.backbone.arch).stride


def prepare(
    cfg: Config, img_size: int | None, keep: int | None, batch_size: int, folder: Path
) -> None:
    """Change a config in place so that it can be timed anywhere.

    Args:
        cfg (Config): Config of stage 1.
        img_size (int, optional): Another image size; K keeps its share of L.
        keep (int, optional): Another K than the config's target.
        batch_size (int): Images a step.
        folder (Path): For stand-ins of files that the config names.
    """
    model = cfg.model
    before = model.backbone.get('img_size', 256)
    target = model.get('keep')
    target = target['target'] if isinstance(target, dict) else target
    if img_size is not None and img_size != before:
        model.backbone.img_size = img_size
        if 'grid' in model.neck:
            scaled = [max(n * img_size // before, 1) for n in model.neck.grid]
            model.neck.grid = tuple(scaled)
        if target is not None:
            target = max(round(target * (img_size / before) ** 2), 1)
    # One K in all steps, whose times would otherwise differ by more than the noise.
    model.keep = target if keep is None else keep
    if model.keep is not None:
        model.test_cfg = {**(model.get('test_cfg') or {}), 'keep': [model.keep]}
    else:
        model.pop('test_cfg', None)
    if 'discriminator' in model:
        model.discriminator_start = 0
    for node in dicts(cfg.get('optim_wrapper') or {}):
        if 'accumulative_counts' in node:
            node['accumulative_counts'] = 1
    width = _target_width(model)
    for node in list(dicts(model)):
        _without_weights(node, width, batch_size, folder)


def dicts(node: Any) -> Iterator[dict]:
    """All dicts of a nested config, outer ones first."""
    if isinstance(node, dict):
        yield node
        for value in node.values():
            yield from dicts(value)
    elif isinstance(node, (list, tuple)):
        for value in node:
            yield from dicts(value)


def _target_width(model: dict) -> int:
    """Width of the teacher's targets, as the head expects it."""
    alignment = (model.get('head') or {}).get('alignment') or {}
    return alignment.get('out_channels', 768)


def _without_weights(node: dict, width: int, batch_size: int, folder: Path) -> None:
    """Replace what a part would load by random numbers of the same shape."""
    kind = str(node.get('type', '')).split('.')[-1]
    if isinstance(node.get('init_cfg'), dict):
        if node['init_cfg'].get('type') == 'Pretrained':
            node.pop('init_cfg')
    if isinstance(node.get('network'), dict):
        node['random_init'] = True
        for flag in ('pretrained', 'checkpoint_path'):
            node['network'].pop(flag, None)
        node.pop('standardize', None)
    if kind == 'LPIPSLoss':
        node['checkpoint'] = _random_trunk(node.get('net', 'vgg'), folder)
    if kind == 'StoredTeacher':
        from mergevq_mm.models.target_generators.stored_teacher import write_targets

        node['file'] = str(folder / 'targets.npz')
        keys = [f'{i}.png' for i in range(batch_size)]
        write_targets(node['file'], keys, torch.randn(batch_size, width))


def _random_trunk(net: str, folder: Path) -> str:
    """A file of random weights of the network under LPIPS."""
    from torchvision import models

    makers = {'vgg': 'vgg16', 'alex': 'alexnet', 'squeeze': 'squeezenet1_1'}
    with torch.device('meta'):
        features = getattr(models, makers[net])(weights=None).features
    features = features.to_empty(device='cpu')
    for parameter in features.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
    state = {f'features.{name}': value for name, value in features.state_dict().items()}
    file = folder / f'{net}.pth'
    torch.save(state, file)
    return str(file)
