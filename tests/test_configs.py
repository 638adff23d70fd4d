"""Every config loads, builds (shrunk) and runs a training and a validation step."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.runner import Runner
from PIL import Image

from mergevq_mm.evaluation.feature_extractors import INCEPTION_URLS
from mergevq_mm.models.losses.perceptual import LPIPS_NETS
from mergevq_mm.utils import config as config_utils

CONFIGS = Path(__file__).parents[1] / 'configs'
IMAGENET = sorted(CONFIGS.glob('mergevq_*.py'))
QUICKSTART = CONFIGS / 'quickstart' / 'mergevq_g+r_mnist5k.py'
PICTURES = sorted((CONFIGS / 'pictures').glob('*.py'))

# Random weights in the place of those that have to be downloaded.
TINY_NET = {
    'type': 'mmpretrain.TIMMBackbone',
    'model_name': 'tf_efficientnet_lite0',
    'features_only': True,
    'out_indices': (0, 1),
}


@pytest.fixture(scope='module')
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Noise of two classes, laid out as ImageNet: four images to train on, two not."""
    root = tmp_path_factory.mktemp('imagenet')
    rng = np.random.default_rng(0)
    for split in ('train', 'val'):
        for name in ('n0', 'n1'):
            folder = root / split / name
            folder.mkdir(parents=True)
            for i in range(2 if split == 'train' else 1):
                pixels = rng.integers(0, 256, (270, 300, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f'{i}.JPEG')
    return root


def shrink_imagenet(cfg: Config, root: Path) -> None:
    """Narrow and shallow networks; sizes of images, K and recipe stay."""
    model = cfg.model
    zoo = {
        'g-d32': (4, (2, 4, 8, 12)),
        'g-d64': (4, (1, 2, 4, 8)),
        'g+r-d32': (4, (2, 2, 4, 8, 12)),
        'g+r-d64': (8, (1, 1, 2, 4, 8)),
        'g+r-d96': (8, (1, 1, 2, 4, 8)),
    }
    arch = {'num_layers': 4, 'num_heads': 4}
    if model.backbone.arch in zoo:
        channels, multipliers = zoo[model.backbone.arch]
        dims = channels * multipliers[-1]
        assert multipliers == tuple(model.decoder.channel_mult)
        arch.update(
            stem='hybrid',
            base_channels=channels,
            channel_mult=multipliers,
            num_res_blocks=1,
        )
    else:
        channels, dims = 8, 48
        arch.update(stem='patch', embed_dims=dims, patch_size=16)
    model.backbone.arch = arch
    model.backbone.init_cfg = None
    model.quantizer.in_channels = dims
    model.head.alignment.in_channels = dims
    model.neck.update(embed_dims=32, num_heads=4, feedforward_channels=64)
    model.decoder.update(
        base_channels=channels, num_heads=4, num_layers=1, num_res_blocks=1
    )
    model.discriminator.base_channels = 8
    model.head.perceptual = {
        'type': 'mergevq_mm.PerceptualLoss',
        'network': TINY_NET,
        'random_init': True,
    }
    network = model.target_generator.network
    network.arch = {
        'embed_dims': 768,
        'num_layers': 1,
        'num_heads': 12,
        'feedforward_channels': 64,
    }
    del network['init_cfg']
    model.target_generator.random_init = True
    *metrics, lpips, rfid = cfg.val_evaluator
    assert lpips.type == 'mergevq_mm.LPIPSMetric'
    rfid.extractor = {
        'type': 'mergevq_mm.BackboneFeatures',
        'network': TINY_NET,
        'random_init': True,
    }
    cfg.val_evaluator = [*metrics, rfid]
    for loader in (cfg.train_dataloader, cfg.val_dataloader):
        loader.batch_size = 2
        loader.dataset.update(data_root=str(root), num_classes=2)


def shrink_quickstart(cfg: Config, root: Path) -> None:
    """Digits are written to ``root``; weights and stored targets are made up."""
    from safetensors.torch import save_file  # noqa: F401  (an early, clear failure)

    from mergevq_mm.models.target_generators.stored_teacher import write_targets

    rng = np.random.default_rng(0)
    keys = []
    for split in ('train', 'val'):
        for digit in range(10):
            folder = root / split / str(digit)
            folder.mkdir(parents=True)
            Image.fromarray(rng.integers(0, 256, (28, 28), dtype=np.uint8)).save(
                folder / '0.png'
            )
            keys.append(f'{split}/{digit}/0.png')
    targets = root / 'targets.safetensors'
    write_targets(targets, keys, torch.randn(len(keys), 448))
    if cfg.model.target_generator is not None:
        cfg.model.target_generator.file = str(targets)
    del cfg.model.head.perceptual.network['init_cfg']
    cfg.model.head.perceptual.random_init = True
    cfg.val_evaluator = cfg.test_evaluator
    extractor = cfg.val_evaluator[-1].extractor
    del extractor.network['init_cfg']
    extractor.random_init = True
    cfg.model.discriminator_start = 0
    for loader in (cfg.train_dataloader, cfg.val_dataloader):
        loader.batch_size = 4
        loader.dataset.data_root = str(root)


def run(cfg: Config, work_dir: Path, epochs: int = 1) -> tuple[Runner, dict]:
    """Train epochs of two iterations and validate."""
    cfg.work_dir = str(work_dir)
    cfg.experiment_name = work_dir.name
    if cfg.train_cfg.get('by_epoch', True):
        cfg.train_cfg.max_epochs = epochs
    else:
        cfg.train_cfg.max_iters = 2 * epochs
    cfg.train_cfg.val_interval = epochs
    cfg.test_dataloader = cfg.test_evaluator = cfg.test_cfg = None
    for loader in filter(None, (cfg.train_dataloader, cfg.val_dataloader)):
        loader.num_workers = 0
        loader.persistent_workers = False
    config_utils.adapt_to_device(cfg)
    config_utils.complete_hooks(cfg)
    runner = Runner.from_cfg(cfg)
    before = {k: v.clone() for k, v in runner.model.state_dict().items()}
    runner.train()
    after = runner.model.state_dict()
    # The optimizers reached each learned tensor of each part.
    still = [
        name
        for name, parameter in runner.model.named_parameters()
        if parameter.requires_grad and torch.equal(before[name], after[name])
    ]
    assert not still, f'never updated: {still}'
    return runner, dict(runner.message_hub.log_scalars)


@pytest.mark.parametrize('path', IMAGENET, ids=lambda path: path.stem)
def test_imagenet_config(path: Path, photographs: Path, tmp_path: Path) -> None:
    cfg = Config.fromfile(path)
    shrink_imagenet(cfg, photographs)
    _, scalars = run(cfg, tmp_path / path.stem)
    for keep in cfg.model.test_cfg.keep:
        assert scalars[f'val/recon/K{keep}/psnr'].current() > 0
        assert scalars[f'val/source/K{keep}/acc'].current() >= 0
        assert scalars[f'val/recon/K{keep}/rfid'].current() > 0
        assert f'val/recon/K{keep}/rfid_predicted' not in scalars
    for term in ('pixel', 'perceptual', 'gan', 'source', 'align', 'entropy', 'commit'):
        assert np.isfinite(scalars[f'train/loss_{term}'].current())
    assert np.isfinite(scalars['train/loss_d_hinge'].current())


def test_weights_of_the_evaluation() -> None:
    cfg = Config.fromfile(CONFIGS / 'mergevq_g+r.py')
    for evaluator, predicted in (
        (cfg.val_evaluator, False),
        (cfg.test_evaluator, True),
    ):
        lpips, rfid = evaluator[-2:]
        assert lpips.checkpoint == LPIPS_NETS[lpips.net]
        assert rfid.extractor.checkpoint == INCEPTION_URLS['pytorch-fid']
        assert rfid.get('predicted', True) == predicted


def test_weights_are_named_by_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ('LPIPS', 'INCEPTION', 'DINOV2_B', 'DINOV2_S'):
        monkeypatch.setenv(f'{name}_WEIGHTS', f'{name}.pth')
    cfg = Config.fromfile(CONFIGS / 'mergevq_g_d32.py')
    for evaluator in (cfg.val_evaluator, cfg.test_evaluator):
        assert evaluator[-2].checkpoint == 'LPIPS.pth'
        assert evaluator[-1].extractor.checkpoint == 'INCEPTION.pth'
    assert cfg.model.backbone.init_cfg.checkpoint == 'DINOV2_S.pth'
    assert cfg.model.target_generator.network.init_cfg.checkpoint == 'DINOV2_B.pth'


@pytest.mark.parametrize('path', IMAGENET, ids=lambda path: path.stem)
def test_blocks_start_from_dinov2(path: Path) -> None:
    """ViT-B for d64 and d96, ViT-S for d32; R is random (spec section 3.2)."""
    model = Config.fromfile(path).model
    init_cfg = model.backbone.init_cfg
    if model.backbone.arch == 'r-base':
        assert init_cfg is None
        return
    assert init_cfg.type == 'mergevq_mm.WeightSelection'
    assert init_cfg.prefix == 'backbone.'
    teacher = model.target_generator.network.init_cfg.checkpoint
    if model.backbone.arch.endswith('d32'):
        assert '/vit-small-p14_dinov2' in init_cfg.checkpoint
    else:
        assert '/vit-base-p14_dinov2' in init_cfg.checkpoint == teacher


def test_a1_preset() -> None:
    """The losses of the paper's Table A1 take the place of the code's."""
    code, paper = (
        Config.fromfile(CONFIGS / f'mergevq_g+r{name}.py') for name in ('', '_a1')
    )
    head = paper.model.head
    assert head.pixel == {'l2': 1.0}
    assert (head.perceptual.loss_weight, head.gan_weight) == (0.7, 0.8)
    assert head.perceptual.net == 'vgg'
    head.pixel, head.perceptual.loss_weight, head.gan_weight = {'l1': 1.0}, 1.0, 0.1
    assert paper.model == code.model


def test_quickstart_config(tmp_path: Path) -> None:
    cfg = Config.fromfile(QUICKSTART)
    shrink_quickstart(cfg, tmp_path / 'data')
    runner, scalars = run(cfg, tmp_path / 'first', epochs=2)
    assert scalars['val/recon/K16/rfid'].current() > 0
    trained = tmp_path / 'first' / 'epoch_2.pth'
    saved = torch.load(trained, weights_only=True)['state_dict']
    parts = {name.split('.')[0] for name in saved}
    assert parts >= {'backbone', 'quantizer', 'neck', 'decoder', 'head'}
    assert 'target_generator' not in parts
    assert not any('perceptual' in name for name in saved)
    assert type(runner.model).__name__ == 'MergeVQ'

    cfg = Config.fromfile(QUICKSTART.with_name(f'{QUICKSTART.stem}_refined.py'))
    shrink_quickstart(cfg, tmp_path / 'again')
    cfg.model.init_cfg.checkpoint = str(trained)
    run(cfg, tmp_path / 'refined', epochs=2)
    refined = torch.load(tmp_path / 'refined' / 'epoch_2.pth', weights_only=True)
    changed = {
        name.split('.')[0]
        for name, value in refined['state_dict'].items()
        if not torch.equal(value, saved[name])
    }
    assert changed == {'neck', 'decoder', 'discriminator', 'lecam'}


@pytest.mark.parametrize('path', PICTURES, ids=lambda path: path.stem)
def test_pictures_config(
    path: Path, photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv('MERGEVQ_FOLDER', str(photographs))
    cfg = Config.fromfile(path)
    dataset = cfg.train_dataloader.dataset
    if path.stem == 'mergevq_photographs':  # takes crops of 64 px as they are
        for file in sorted(photographs.glob('train/*/*.JPEG')):
            crop = tmp_path / 'crops' / 'train' / file.parent.name / f'{file.stem}.png'
            crop.parent.mkdir(parents=True, exist_ok=True)
            Image.open(file).crop((0, 0, 64, 64)).save(crop)
        dataset.update(data_root=str(tmp_path / 'crops'), indices=None)
    if path.stem == 'mergevq_shipped_photographs':
        for loader in (cfg.train_dataloader, cfg.val_dataloader):
            loader.dataset.data_root = str(photographs)
        cfg.val_dataloader.dataset.indices = [0]  # of 2,304 positions
        del cfg.model.head.perceptual.network['init_cfg']
        cfg.model.head.perceptual.random_init = True
    cfg.train_dataloader.batch_size = 2
    _, scalars = run(cfg, tmp_path / path.stem, epochs=2)
    assert np.isfinite(scalars['train/loss_pixel'].current())
    assert list((tmp_path / path.stem).glob('*.pth'))
