"""Configs of probes, k-NN and fine-tuning: they see the right features, and run."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import mmpretrain
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from PIL import Image
from ready_processes import run_tool

from mergevq_mm.models.utils.group_map import recover_tokens
from mergevq_mm.registry import MODELS
from mergevq_mm.utils import config as config_utils

ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / 'configs' / 'benchmarks'
QUICKSTART = ROOT / 'configs' / 'quickstart' / 'mergevq_g+r_mnist5k.py'
IMAGENET = sorted(CONFIGS.glob('*/*_in1k.py'))
DIGITS = sorted(CONFIGS.glob('*/*_mnist5k.py'))
# One of each kind always, the others with the slow tests.
SPARED = [path for path in DIGITS if '_avg_' in path.stem or '_k16_' in path.stem]
CHANNELS = {
    'g-d64': (1, 2, 4, 8),
    'g+r-d64': (1, 1, 2, 4, 8),
}
DIMS = 64


def name_of(path: Path) -> str:
    return f'{path.parent.name}-{path.stem}'


# ------------------------------------------------------------------------ material


@pytest.fixture(scope='module')
def imagenet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four noise images a split, listed as ImageNet lists them."""
    root = tmp_path_factory.mktemp('imagenet')
    rng = np.random.default_rng(0)
    (root / 'meta').mkdir()
    for split in ('train', 'val'):
        (root / split).mkdir()
        lines = []
        for i in range(4):
            pixels = rng.integers(0, 256, (300, 310, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / split / f'{i}.JPEG')
            lines.append(f'{i}.JPEG {i % 2 * 700}\n')
        (root / 'meta' / f'{split}.txt').write_text(''.join(lines))
    return root


@pytest.fixture(scope='module')
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two noise digits of each class a split."""
    root = tmp_path_factory.mktemp('mnist5k')
    rng = np.random.default_rng(0)
    for split in ('train', 'val'):
        for digit in range(10):
            folder = root / split / str(digit)
            folder.mkdir(parents=True)
            for i in range(2):
                pixels = rng.integers(0, 256, (28, 28), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f'{i}.png')
    return root


@pytest.fixture(autouse=True)
def scope() -> Iterator[None]:
    init_default_scope('mmpretrain')
    yield


def shrink(cfg: Config, checkpoint: Path | None) -> None:
    """A narrow encoder; image size, K, features, freezing and recipe stay."""
    model = cfg.model
    arch = dict(num_layers=4, num_heads=4)
    if model.backbone.arch in CHANNELS:
        arch.update(
            stem='hybrid',
            base_channels=8,
            channel_mult=CHANNELS[model.backbone.arch],
            num_res_blocks=1,
            norm_groups=4,
        )
    else:
        arch.update(stem='patch', embed_dims=DIMS, patch_size=16)
    model.backbone.arch = arch
    if model.backbone.get('frozen_stages', -1) > 0:
        assert model.backbone.frozen_stages == 12  # all blocks of the real ones
        model.backbone.frozen_stages = 4
    codes = model.neck is not None and 'quantizer' in model.neck
    if codes:
        model.neck.quantizer.update(in_channels=DIMS, norm_groups=4)
    elif model.neck is not None:
        model.neck.input_features = DIMS
    if 'in_channels' in model.head and not codes:
        model.head.in_channels = DIMS
    if checkpoint is not None and model.backbone.get('init_cfg'):
        model.backbone.init_cfg.checkpoint = str(checkpoint)
        if codes:
            model.neck.quantizer.init_cfg.checkpoint = str(checkpoint)


def write_tokenizer(model: dict, file: Path) -> dict[str, torch.Tensor]:
    """A checkpoint of a stage-1 model with random weights that are not the initial."""
    backbone = {k: v for k, v in model['backbone'].items() if k != 'init_cfg'}
    parts = {'backbone': MODELS.build(backbone)}
    quantizer = dict(
        type='mergevq_mm.LFQ',
        bits=18,
        in_channels=parts['backbone'].embed_dims,
        norm_groups=4,
    )
    parts['quantizer'] = MODELS.build(quantizer)
    state = torch.nn.ModuleDict(parts).state_dict()
    for value in state.values():
        if value.is_floating_point():  # not the size of a position embedding
            value.add_(torch.randn_like(value), alpha=0.1)
    torch.save({'state_dict': {**state, 'decoder.conv.weight': torch.ones(1)}}, file)
    return state


def at_root(cfg: Config, root: Path) -> None:
    """Point every data set of a config at the test's images; small batches."""
    for name in ('train', 'val', 'test'):
        loader = cfg.get(f'{name}_dataloader')
        if loader is None:
            continue
        loader.update(batch_size=2, num_workers=0, persistent_workers=False)
        for dataset in loader.dataset.get('datasets', [loader.dataset]):
            dataset.data_root = str(root)
            if 'ImageNet' in dataset.type:
                dataset.ann_file = f'meta/{dataset.split}.txt'


def runner_of(cfg: Config, work_dir: Path) -> Runner:
    """A runner as tools/train.py and tools/test.py build it, one epoch."""
    cfg.work_dir, cfg.experiment_name = str(work_dir), work_dir.name
    if cfg.get('train_cfg'):
        cfg.train_cfg.update(max_epochs=1, val_interval=1)
        cfg.param_scheduler = None
    config_utils.complete_dataloaders(cfg, persistent_workers=False)
    config_utils.complete_hooks(cfg)
    return Runner.from_cfg(cfg)


# --------------------------------------------------------------------------- names


def test_every_variant_and_feature_is_there() -> None:
    names = {path.stem for path in (CONFIGS / 'linear').glob('*_in1k.py')}
    for variant, keep in (('g', 256), ('g+r', 144), ('r', 36)):
        for what in ('cls', 'avg', 'codes', f'cls_k{keep}', f'avg_k{keep}'):
            assert f'mergevq-{variant}_{what}_8xb128-linear-90e_in1k' in names


@pytest.mark.parametrize('path', IMAGENET, ids=name_of)
def test_name_says_what_is_probed(path: Path) -> None:
    backbone = Config.fromfile(path).model.backbone
    words = path.stem.split('_')
    assert f'mergevq-{backbone.arch.split("-")[0]}' == words[0]
    keep = [int(word[1:]) for word in words if word[0] == 'k' and word[1:].isdigit()]
    assert backbone.get('keep') == (keep[0] if keep else None)
    named = {'cls': 'cls_token', 'avg': 'avg_featmap', 'codes': 'featmap'}
    feature = [named[word] for word in words if word in named]
    assert backbone.out_type == (feature[0] if feature else 'avg_featmap')


# ------------------------------------------------------------------------ features


@pytest.mark.parametrize('path', IMAGENET, ids=name_of)
def test_sees_the_feature_of_the_checkpoint(path: Path, tmp_path: Path) -> None:
    cfg = Config.fromfile(path)
    shrink(cfg, tmp_path / 'tokenizer.pth')
    write_tokenizer(cfg.model.backbone and cfg.model, tmp_path / 'tokenizer.pth')
    keep = cfg.model.backbone.get('keep')
    model = MODELS.build(cfg.model)
    model.init_weights()
    model.eval()
    size = cfg.model.backbone.img_size
    image = torch.randn(1, 3, size, size)
    with torch.no_grad():
        seen = model.extract_feat(image)[-1]
        merged = model.backbone.encode(image, keep)
    if 'codes' in path.stem:
        codes = model.neck.quantizer(merged.tokens).codes
        expected = codes.mean(dim=1)
        assert set(codes.unique().tolist()) == {-1.0, 1.0}
    elif model.backbone.out_type == 'cls_token':
        expected = merged.cls
    else:
        expected = recover_tokens(merged.tokens, merged.group).mean(dim=1)
    if model.neck is not None:  # an untrained batch norm divides by sqrt(1 + eps)
        expected = expected / (1 + 1e-6) ** 0.5
    torch.testing.assert_close(seen, expected, atol=1e-5, rtol=1e-4)
    if keep is not None:
        assert merged.tokens.shape[1] == keep


# ---------------------------------------------------------------------------- runs


@pytest.mark.parametrize(
    'stem',
    [
        'linear/mergevq-g+r_cls_8xb128-linear-90e_in1k',
        pytest.param(
            'linear/mergevq-r_codes_8xb128-linear-90e_in1k', marks=pytest.mark.slow
        ),
        'finetune/mergevq-r_k28_8xb128-coslr-100e_in1k',
    ],
)
def test_trains_what_is_to_be_trained(
    stem: str, imagenet: Path, tmp_path: Path
) -> None:
    cfg = Config.fromfile(CONFIGS / f'{stem}.py')
    shrink(cfg, tmp_path / 'tokenizer.pth')
    state = write_tokenizer(cfg.model, tmp_path / 'tokenizer.pth')
    at_root(cfg, imagenet)
    runner = runner_of(cfg, tmp_path / 'run')
    runner.train()
    after = runner.model.state_dict()
    frozen = 'linear' in stem
    for name, value in after.items():
        if name.startswith('backbone.') and value.is_floating_point():
            assert torch.equal(value, state[name]) == frozen, name
        if name.startswith('neck.quantizer.'):
            assert torch.equal(value, state[name.removeprefix('neck.')]), name
    trained = {n for n, p in runner.model.named_parameters() if p.requires_grad}
    if frozen:
        assert trained == {'head.fc.weight', 'head.fc.bias'}
        assert not any(p.grad is not None for p in runner.model.backbone.parameters())
    assert 'accuracy/top1' in str(dict(runner.message_hub.log_scalars).keys())


def test_layer_decay_and_drop_path(imagenet: Path, tmp_path: Path) -> None:
    cfg = Config.fromfile(CONFIGS / 'finetune/mergevq-r_8xb128-coslr-100e_in1k.py')
    shrink(cfg, None)
    at_root(cfg, imagenet)
    runner = runner_of(cfg, tmp_path / 'run')
    wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
    groups = {
        name: group
        for group in wrapper.optimizer.param_groups
        for name, p in runner.model.named_parameters()
        if any(p is q for q in group['params'])
    }
    # 4 blocks: depths 0 (stem) to 5 (head), 0.65 a step down from the head.
    for name, depth in (
        ('backbone.stem.projection.weight', 0),
        ('backbone.layers.0.attn.qkv.weight', 1),
        ('backbone.layers.3.attn.qkv.weight', 4),
        ('head.fc.weight', 5),
    ):
        expected = 2e-3 * 0.65 ** (5 - depth)
        assert groups[name]['lr'] == pytest.approx(expected), name
        assert groups[name]['weight_decay'] == 0.05
    flat = [n for n, p in runner.model.named_parameters() if p.ndim == 1]
    assert flat and all(groups[name]['weight_decay'] == 0 for name in flat)
    rates = [
        module.drop_prob
        for module in runner.model.backbone.modules()
        if hasattr(module, 'drop_prob')
    ]
    assert max(rates) == pytest.approx(0.1)


def test_knn_config_classifies(imagenet: Path, tmp_path: Path) -> None:
    """One pass over both sides; copies of the gallery are found with k = 1."""
    cfg = Config.fromfile(CONFIGS / 'knn/mergevq-g+r_cls_knn_in1k.py')
    shrink(cfg, None)
    state = write_tokenizer(cfg.model, tmp_path / 'tokenizer.pth')
    at_root(cfg, imagenet)
    (tmp_path / 'val').mkdir()
    (tmp_path / 'meta').mkdir()
    for i, source in enumerate((2, 1, 0, 3)):
        file = imagenet / 'train' / f'{source}.JPEG'
        (tmp_path / 'val' / f'{i}.JPEG').write_bytes(file.read_bytes())
    # Three labels are those of the copied images (0, 700, 0, 700), one is not.
    text = '0.JPEG 0\n1.JPEG 700\n2.JPEG 0\n3.JPEG 0\n'
    (tmp_path / 'meta' / 'val.txt').write_text(text)
    cfg.test_dataloader.dataset.datasets[1].data_root = str(tmp_path)
    cfg.test_evaluator.ks = [1]
    cfg.load_from = str(tmp_path / 'tokenizer.pth')
    runner = runner_of(cfg, tmp_path / 'run')
    assert runner.test() == {'knn/k1': 75.0}
    name = 'backbone.layers.0.attn.qkv.weight'
    assert torch.equal(runner.model.state_dict()[name], state[name])


def test_foreign_checkpoint_stops_the_run(digits: Path, tmp_path: Path) -> None:
    cfg = Config.fromfile(DIGITS[-1])
    at_root(cfg, digits)
    file = tmp_path / 'foreign.pth'
    torch.save({'state_dict': {'backbone.conv1.weight': torch.ones(1)}}, file)
    cfg.model.backbone.init_cfg.checkpoint = str(file)
    runner = runner_of(cfg, tmp_path / 'run')
    with pytest.raises(ValueError, match=r'expected keys like cls_token.*conv1'):
        runner.train()


@pytest.mark.parametrize(
    'path',
    [
        pytest.param(p, marks=[pytest.mark.slow] if p in SPARED else [], id=name_of(p))
        for p in DIGITS
    ],
)
def test_digits_config_runs(path: Path, digits: Path, tmp_path: Path) -> None:
    cfg = Config.fromfile(path)
    file = tmp_path / 'tokenizer.pth'
    write_tokenizer(Config.fromfile(QUICKSTART).model, file)
    at_root(cfg, digits)
    if path.parent.name == 'knn':
        cfg.test_evaluator[0].ks = [3]
        cfg.load_from = str(file)
        found = runner_of(cfg, tmp_path / 'run').test()
        assert 0 <= found['knn/k3'] <= 100
        return
    cfg.model.backbone.init_cfg.checkpoint = str(file)
    runner = runner_of(cfg, tmp_path / 'run')
    runner.train()
    decay = {group['lr'] for group in runner.optim_wrapper.optimizer.param_groups}
    # One rate for the stem, for each block and for the head.
    rates = cfg.model.backbone.arch.num_layers + 2
    assert len(decay) == (rates if path.parent.name == 'finetune' else 1)


OWN_TOOLS = Path(mmpretrain.__file__).parent / '.mim' / 'tools'
MIM = pytest.mark.skipif(
    importlib.util.find_spec('mim') is None,
    reason='openmim is not installed; docs/representation.md says how',
)


@pytest.mark.slow
@pytest.mark.parametrize(
    'start',
    [
        pytest.param([OWN_TOOLS / 'train.py'], id='own tool'),
        pytest.param(['-m', 'mim', 'train', 'mmpretrain'], marks=MIM, id='mim'),
    ],
)
def test_starts_with_mmpretrains_tools(
    start: list, digits: Path, tmp_path: Path
) -> None:
    path = CONFIGS / 'linear' / 'mergevq-g+r_cls_1xb100-linear-30e_mnist5k.py'
    write_tokenizer(Config.fromfile(QUICKSTART).model, tmp_path / 'tokenizer.pth')
    loaders = ('train', 'val', 'test')
    options = [
        *('--work-dir', tmp_path / 'run', '--cfg-options'),
        f'model.backbone.init_cfg.checkpoint={tmp_path / "tokenizer.pth"}',
        'train_cfg.max_epochs=2',
        'train_cfg.val_interval=2',
        'default_hooks.checkpoint.interval=2',
        *(f'{name}_dataloader.dataset.data_root={digits}' for name in loaders),
    ]
    last = tmp_path / 'run' / 'epoch_2.pth'
    words = list(map(str, [sys.executable, *start, path, *options]))
    trained = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path)
    tested = run_tool(OWN_TOOLS / 'test.py', path, last, *options, cwd=tmp_path)
    for done in (trained, tested):
        assert done.returncode == 0, done.stderr[-2000:]
        assert 'accuracy/top1' in done.stdout + done.stderr
        assert last.is_file()
