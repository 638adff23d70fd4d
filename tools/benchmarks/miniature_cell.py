"""One cell of the miniature: a method, a data set and a seed, trained and measured."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from miniature_setting import (
    CONFIG_OF,
    UNTRAINED,
    Cell,
    Setting,
    cell_config,
    image_set,
    subgroup_labels,
)
from mmengine.config import Config
from torch import Tensor, nn

import mergevq_mm  # noqa: F401  (before torchvision and mmpretrain)

PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)


def train(cfg: Config) -> tuple[nn.Module, float]:
    """Train and load the averaged weights that the checkpoint holds.

    Returns:
        tuple[nn.Module, float]: The model and the seconds of its training.
    """
    from mmengine.runner import Runner

    from mergevq_mm.utils import find_latest_checkpoint, load_checkpoint_file

    runner = Runner.from_cfg(cfg)
    start = time.perf_counter()
    runner.train()
    seconds = time.perf_counter() - start
    checkpoint = Path(find_latest_checkpoint(cfg.work_dir))
    state = load_checkpoint_file(checkpoint)['state_dict']
    runner.model.load_state_dict(state)
    checkpoint.unlink()
    return runner.model.eval(), seconds


def encoder_features(model: nn.Module) -> Callable[[Tensor], Tensor]:
    """Class token beside the mean of the tokens, merging off, B×2D."""
    backbone = model.backbone
    if hasattr(backbone, 'encode'):

        def features(images: Tensor) -> Tensor:
            merged = backbone.encode(images)
            return torch.cat([merged.cls, merged.tokens.mean(dim=1)], dim=1)

        return features

    def vit_features(images: Tensor) -> Tensor:
        tokens = backbone(images, mask=None)[-1]  # B×(1+L)×D
        return torch.cat([tokens[:, 0], tokens[:, 1:].mean(dim=1)], dim=1)

    return vit_features


def recognition(
    features: Callable[[Tensor], Tensor],
    preprocessor: nn.Module,
    cell: Cell,
    setting: Setting,
) -> dict[str, Any]:
    """Linear probe and k-NN of frozen features.

    Returns:
        dict[str, Any]: ``probe``, of emoji also ``probe_subgroups``, ``knn`` by k, and
        ``width`` of the features.
    """
    from mergevq_mm.evaluation.knn import knn_accuracy
    from mergevq_mm.evaluation.probe import extract_features, linear_probe

    learn = 'probe' if cell.data == 'photographs' else 'train'
    images = [image_set(cell, setting, split) for split in (learn, 'val')]
    sets = [extract_features(features, each, preprocessor) for each in images]
    (train_x, train_y), (test_x, test_y) = sets
    ks = [k for k in setting.neighbours if k <= len(train_x)]
    near = knn_accuracy(*map(torch.from_numpy, (train_x, train_y, test_x, test_y)), ks)
    score = linear_probe(train_x, train_y, test_x, test_y, PENALTIES, max_iter=300)
    second = {}
    if cell.data == 'emoji':
        known, asked = (subgroup_labels(setting.emoji, each) for each in images)
        finer = linear_probe(train_x, known, test_x, asked, PENALTIES, max_iter=300)
        second = {'probe_subgroups': 100 * finer}
    return {
        'probe': 100 * score,
        **second,
        'knn': {str(k): 100 * value for k, value in near.items()},
        'width': train_x.shape[1],
    }


def reconstruction(
    model: nn.Module, cell: Cell, setting: Setting
) -> dict[str, dict[str, float]]:
    """Metrics of the held-out images at each K of the model's ``test_cfg``.

    Returns:
        dict[str, dict]: K to ``psnr``, ``ssim``, ``entropy`` of the codes and, where
        the source map is learned, ``psnr_predicted`` and ``acc``.
    """
    from mmengine.dataset import default_collate
    from torch.utils.data import DataLoader

    from mergevq_mm.evaluation import (
        CodebookMetric,
        ReconstructionMetric,
        SourceRecoveryMetric,
    )

    metrics = [ReconstructionMetric(), CodebookMetric()]
    if model.predict_source:
        metrics.append(SourceRecoveryMetric())
    images = image_set(cell, setting, 'val')
    with torch.inference_mode():
        for batch in DataLoader(images, batch_size=100, collate_fn=default_collate):
            samples = [sample.to_dict() for sample in model.test_step(batch)]
            for metric in metrics:
                metric.process(batch, samples)
    found: dict[str, float] = {}
    for metric in metrics:
        found.update(metric.evaluate(len(images)))
    return {
        str(keep): {
            name.split('/', 2)[2]: float(value)
            for name, value in found.items()
            if name.split('/')[1] == f'K{keep}'
        }
        for keep in model.test_keep
    }


def encoder_cost(model: nn.Module) -> dict[str, float]:
    """Millions of multiply-accumulates of the encoder for one image, and parameters.

    Returns:
        dict[str, float]: ``macs`` at the K that the model is made for, ``macs_plain``
        without merging, ``parameters`` of the encoder.
    """
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    backbone = model.backbone
    image = torch.zeros(1, 3, *backbone.img_size)

    def count(work: Callable[[], Any]) -> float:
        # Only the plain form of attention is made of products that are counted.
        with torch.inference_mode(), sdpa_kernel(SDPBackend.MATH):
            with FlopCounterMode(display=False) as counter:
                work()
        return counter.get_total_flops() / 2e6

    if hasattr(backbone, 'encode'):
        plain = count(lambda: backbone.encode(image))
        merged = count(lambda: backbone.encode(image, model.keep_sampler.target))
    else:
        plain = merged = count(lambda: backbone(image, mask=None))
    parameters = sum(p.numel() for p in backbone.parameters())
    return {'macs': merged, 'macs_plain': plain, 'parameters': parameters}


@contextmanager
def file_of(folder: Path) -> Iterator[Path]:
    """A result file that appears whole."""
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / 'result.json.part'
    yield part
    part.replace(folder / 'result.json')


def run_cell(cell: Cell, setting: Setting) -> dict[str, Any]:
    """Train what is to be trained, measure it, write ``result.json``.

    Args:
        cell (Cell): Method, data and seed.
        setting (Setting): Where the data lie.

    Returns:
        dict[str, Any]: What the file holds.
    """
    from mmengine.registry import init_default_scope

    from mergevq_mm.registry import MODELS

    init_default_scope('mmpretrain')
    torch.manual_seed(cell.seed)
    np.random.seed(cell.seed)
    version = setting.version_of(cell)
    result: dict[str, Any] = {'cell': vars(cell), 'version': version}
    cfg = cell_config(cell, setting)
    preprocessor = MODELS.build(cfg.data_preprocessor)
    if cell.method in UNTRAINED:
        model = MODELS.build(cfg.model)
        model.init_weights()
        features = encoder_features(model.eval())
    elif CONFIG_OF[cell.method] is not None:
        model, result['seconds'] = train(cfg)
        result['cost'] = encoder_cost(model)
        if hasattr(model, 'test_keep'):
            result['keep'] = model.keep_sampler.target
            result['reconstruction'] = reconstruction(model, cell, setting)
        features = encoder_features(model)
    elif cell.method == 'pixels':
        channels = slice(0, 1 if cell.data == 'digits' else 3)  # digits are grey
        features = lambda images: images[:, channels].flatten(1)  # noqa: E731
    else:
        features = lambda images: images.mean(dim=(2, 3))  # noqa: E731
    result.update(recognition(features, preprocessor, cell, setting))
    with file_of(cell.folder(setting.out)) as file:
        file.write_text(json.dumps(result, indent=2) + '\n')
    return result
