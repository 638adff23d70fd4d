"""The configs of the emoji: tokenizers train, judge and probes classify, shrunk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from PIL import Image
from test_configs import run

from mergevq_mm.models.target_generators.stored_teacher import write_targets
from mergevq_mm.utils import config as config_utils

CONFIGS = Path(__file__).parents[1] / 'configs'
PROBES = CONFIGS / 'benchmarks' / 'linear'
LINEAR = 'mergevq-g+r_cls_1xb100-linear-30e_emoji'
GROUPS, SUBGROUPS = 9, 99


@pytest.fixture(scope='module')
def emoji(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two noise images of each group a split, their sub-groups, made-up targets."""
    root = tmp_path_factory.mktemp('emoji')
    rng = np.random.default_rng(0)
    keys = []
    (root / 'meta').mkdir()
    for split in ('train', 'val'):
        lines = []
        for group in range(GROUPS):
            folder = root / split / f'group{group}'
            folder.mkdir(parents=True)
            for i in range(2):
                pixels = rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f'{i}.png')
                keys.append(f'{split}/group{group}/{i}.png')
                lines.append(f'group{group}/{i}.png {2 * group + i}\n')
        lines[-1] = lines[-1].replace(' 17', f' {SUBGROUPS - 1}')
        (root / 'meta' / f'{split}_subgroups.txt').write_text(''.join(lines))
    write_targets(root / 'teacher.safetensors', keys, torch.randn(len(keys), 480))
    return root


@pytest.fixture(autouse=True)
def root(emoji: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The data lie where the variable says."""
    monkeypatch.setenv('MERGEVQ_EMOJI', str(emoji))
    init_default_scope('mmpretrain')


def shrink(cfg: Config) -> None:
    """Small and narrow networks, without the frozen one's weights; the recipe stays."""
    model = cfg.model
    for part in (model.backbone.arch, model.decoder):
        part.norm_groups = 4
        if 'channel_mult' in part:
            part.update(base_channels=4, num_res_blocks=1, num_heads=4)
    model.backbone.arch.update(num_layers=4, num_heads=4)
    model.decoder.num_layers = 1
    width = 4 * model.decoder.channel_mult[-1]
    if model.backbone.arch.stem == 'patch':
        width = model.backbone.arch.embed_dims = 32
    model.quantizer.update(in_channels=width, norm_groups=4)
    model.discriminator.base_channels = 4
    model.discriminator_start = 0
    frozen_networks = [model.head.perceptual]
    if model.head.alignment is not None:
        model.head.alignment.in_channels = width
        model.neck.update(embed_dims=32, num_heads=4, feedforward_channels=64)
        frozen_networks.append(model.target_generator)
    for frozen in frozen_networks:
        del frozen.network['init_cfg']
        frozen.random_init = True
    model.head.perceptual.network.out_indices = (0,)
    for loader in (cfg.train_dataloader, cfg.val_dataloader):
        loader.batch_size = 6


@pytest.mark.parametrize(
    'name',
    [
        'mergevq_g+r_emoji',
        *(
            pytest.param(f'mergevq_{name}', marks=pytest.mark.slow)
            for name in ('g_emoji', 'r_emoji', 'g+r_emoji_gpu')
        ),
        pytest.param('vq_emoji', marks=pytest.mark.slow),
    ],
)
def test_tokenizer_trains(name: str, tmp_path: Path) -> None:
    cfg = Config.fromfile(CONFIGS / 'emoji' / f'{name}.py')
    length = (64 // 2 ** (len(cfg.model.decoder.channel_mult) - 1)) ** 2
    merges = cfg.model.head.source is not None
    grid = cfg.model.neck.grid if merges else (8, 8)
    assert grid[0] * grid[1] == length == cfg.model.test_cfg.keep[-1]
    # The paper's signs: many codes are asked for, and the map's loss reaches them.
    assert 'batch_entropy_weight' not in cfg.model.quantizer
    assert 'detach' not in cfg.model.neck
    shrink(cfg)
    cfg.val_dataloader.dataset.indices = list(range(6))  # one batch, at each K
    warm_up, fall = cfg.param_scheduler  # within two epochs
    warm_up.end = fall.begin = 1
    _, scalars = run(cfg, tmp_path / name, epochs=2)
    for keep in cfg.model.test_cfg.keep:
        assert scalars[f'val/recon/K{keep}/psnr'].current() > 0
    terms = ('pixel', 'perceptual', 'gan', 'entropy', 'commit')
    for term in (*terms, *(('source', 'align') if merges else ())):
        assert np.isfinite(scalars[f'train/loss_{term}'].current())


def classifier(cfg: Config, work_dir: Path) -> Runner:
    """A runner of two epochs, as tools/train.py builds it."""
    cfg.work_dir, cfg.experiment_name = str(work_dir), work_dir.name
    cfg.train_cfg.update(max_epochs=2, val_interval=2)
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        loader.batch_size = 6
    config_utils.complete_hooks(cfg)
    return Runner.from_cfg(cfg)


@pytest.mark.parametrize(
    'name, classes', [(LINEAR, GROUPS), (f'{LINEAR}-subgroups', SUBGROUPS)]
)
def test_probe_learns_its_labels(name: str, classes: int, tmp_path: Path) -> None:
    cfg = Config.fromfile(PROBES / f'{name}.py')
    assert cfg.model.backbone.frozen_stages == cfg.model.backbone.arch.num_layers
    cfg.model.backbone.init_cfg = None
    cfg.model.backbone.arch.base_channels = 4
    width = 4 * cfg.model.backbone.arch.channel_mult[-1]
    cfg.model.neck.input_features = cfg.model.head.in_channels = width
    runner = classifier(cfg, tmp_path / name)
    runner.train()
    assert runner.model.head.fc.out_features == classes
    labels = [
        info['gt_label']
        for info in map(runner.val_dataloader.dataset.get_data_info, range(18))
    ]
    assert max(labels) == classes - 1 and len(set(labels)) == (
        9 if classes == 9 else 18
    )


def test_plain_tokenizer_differs_in_merging_and_teacher_alone() -> None:
    """The baseline has the recipe of G+R, so that it is no straw man."""
    plain, merging = (
        Config.fromfile(CONFIGS / 'emoji' / f'{name}.py')
        for name in ('vq_emoji', 'mergevq_g+r_emoji')
    )
    other = {key for key in merging if plain[key] != merging[key]}
    assert other == {'model'}
    other = {key for key in merging.model if plain.model[key] != merging.model[key]}
    assert other == {'neck', 'head', 'target_generator', 'keep', 'test_cfg'}
    other = {
        k for k in merging.model.head if plain.model.head[k] != merging.model.head[k]
    }
    assert other == {'source', 'alignment'}
    assert plain.model.head.source is plain.model.head.alignment is None


@pytest.mark.slow
def test_judge_trains(tmp_path: Path) -> None:
    cfg = Config.fromfile(CONFIGS / 'emoji' / 'judge_emoji.py')
    cfg.model.backbone.model_name = 'tf_efficientnet_lite0'  # smaller
    del cfg.model.backbone['init_cfg']
    runner = classifier(cfg, tmp_path / 'judge')
    runner.train()
    assert runner.message_hub.get_scalar('val/accuracy/top1').current() >= 0
