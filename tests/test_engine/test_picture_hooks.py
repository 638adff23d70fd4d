"""Hooks that draw: what they write, and that they draw the right thing."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tiny_mergevq as tiny
import torch
from mmengine.runner import Runner
from PIL import Image

sys.path.append(str(Path(__file__).parents[1] / 'test_models' / 'test_generators'))

import tiny_mergear

from mergevq_mm.engine import (
    CacheVisualizationHook,
    CodeUsageVisualizationHook,
    CurvesVisualizationHook,
    MergeGrowthVisualizationHook,
)
from mergevq_mm.models.backbones.layer_views import class_attention, merged_layers
from mergevq_mm.models.generators import MergeAR
from mergevq_mm.visualization import attention_strip, growth_strip, to_uint8


def _read(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def test_all_pictures_of_a_training(tmp_path: Path) -> None:
    root = tiny.write_images(tmp_path / 'data')
    tiny.write_images(tmp_path / 'data', split='val')
    cfg = tiny.run_cfg(root, tmp_path / 'run')
    cfg.custom_hooks += [
        dict(type='mergevq_mm.MergeGrowthVisualizationHook', keep=6),
        dict(type='mergevq_mm.CodeUsageVisualizationHook'),
        dict(type='mergevq_mm.CurvesVisualizationHook'),
    ]
    runner = Runner.from_cfg(cfg)
    shown = []
    runner.visualizer.add_image = lambda name, image, step: shown.append((name, step))
    runner.train()
    folder = tmp_path / 'run' / 'vis_data'
    names = ['growth', 'attention', 'codes_K9', 'codes_K16']
    for name in names:
        assert _read(folder / f'{name}_epoch_1.png').std() > 10
    assert sorted(shown) == sorted((name, 1) for name in names)
    assert _read(tmp_path / 'run' / 'curves.png').std() > 10


def _runner(tmp_path: Path, model: Any) -> Any:
    visualizer = SimpleNamespace(add_image=lambda *args: None)
    return SimpleNamespace(
        work_dir=str(tmp_path),
        model=model,
        visualizer=visualizer,
        _train_loop=None,
        iter=7,
    )


def test_growth_is_that_of_the_chosen_image(tmp_path: Path) -> None:
    model = tiny.build_model().eval()
    hook = MergeGrowthVisualizationHook(image=1, keep=6, layer=0, interval=2)
    runner, data = _runner(tmp_path, model), tiny.batch(views=1)
    data['inputs'] = data['inputs'][0].byte()
    for validation in range(2):  # the second is passed over
        hook.before_val_epoch(runner)
        hook.after_val_iter(runner, 0, data, None)
        for path in (tmp_path / 'vis_data').glob('*.png'):
            if validation == 0:
                path.rename(tmp_path / path.name)
    assert not list((tmp_path / 'vis_data').glob('*.png'))

    image = data['inputs'][1].flip(0)[None].float()  # BGR to RGB
    image = (image - 127.5) / 127.5
    with torch.no_grad():
        layers = list(merged_layers(model.backbone, image, 6))
        weights = class_attention(model.backbone, image, 6, 0)[0]
    pixels = to_uint8(image[0] * 0.5 + 0.5)
    groups = [merged.group[0].numpy() for merged in layers]
    expected = growth_strip(pixels, groups, (4, 4))
    np.testing.assert_array_equal(_read(tmp_path / 'growth_iter_7.png'), expected)
    expected = attention_strip(pixels, weights, (4, 4))
    np.testing.assert_array_equal(_read(tmp_path / 'attention_iter_7.png'), expected)


def test_codes_are_those_of_this_validation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = []

    def remember(index: np.ndarray, bits: int, heading: str) -> Any:
        drawn.append((index.tolist(), bits, heading))
        from mergevq_mm.visualization.plots import new_figure

        return new_figure(1, 1, 1, 1)[0]

    monkeypatch.setattr(
        'mergevq_mm.engine.hooks.plot_hooks.code_usage_figure', remember
    )
    hook = CodeUsageVisualizationHook(bits=6, keeps=[2])
    runner = _runner(tmp_path, None)
    for start in (0, 10):
        hook.before_val_epoch(runner)
        for i in range(2):
            made = {k: dict(index=torch.tensor([start + i, i])) for k in (2, 4)}
            hook.after_val_iter(runner, i, outputs=[dict(reconstructions=made)])
        hook.after_val_epoch(runner)
    assert drawn == [([0, 0, 1, 1], 6, 'K = 2'), ([10, 0, 11, 1], 6, 'K = 2')]


def test_caches_of_a_generator(tmp_path: Path) -> None:
    model = tiny_mergear.make(MergeAR, tokenizer=dict(grid=(10, 6)))
    model.sample_cfg = dict(keep=4, temperature=0.3, cache='full', speculative=2)
    model.train()
    hook = CacheVisualizationHook(num_samples=2)
    hook.after_val_epoch(_runner(tmp_path, model))
    assert _read(tmp_path / 'vis_data' / 'cache_iter_7.png').std() > 10
    assert model.training


def test_curves_wait_for_a_log(tmp_path: Path) -> None:
    hook = CurvesVisualizationHook(keys=['loss'])
    runner = _runner(tmp_path, None)
    runner.epoch, runner.experiment_name = 0, 'name'
    hook.after_train_epoch(runner)
    assert not (tmp_path / 'curves.png').exists()
    log = tmp_path / '20260101' / 'vis_data' / 'scalars.json'
    log.parent.mkdir(parents=True)
    log.write_text(json.dumps(dict(loss=1.0, iter=1, step=1)) + '\n')
    hook.after_train_epoch(runner)
    assert _read(tmp_path / 'curves.png').std() > 10


@pytest.mark.parametrize(
    'make, message',
    [
        (lambda: MergeGrowthVisualizationHook(interval=0), 'interval=0 of Merge'),
        (lambda: MergeGrowthVisualizationHook(image=-1), 'image=-1'),
        (lambda: CodeUsageVisualizationHook(bits=0), 'bits=0'),
        (lambda: CacheVisualizationHook(num_samples=0), 'num_samples=0'),
        (lambda: CurvesVisualizationHook(interval=0), 'interval=0'),
    ],
)
def test_refusals(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
