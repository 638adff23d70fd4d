"""The configs of stage 2 train and generate, shrunk; mmagic's metrics are right."""

from __future__ import annotations

import copy
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.runner import Runner
from PIL import Image
from scipy.stats import entropy
from tiny_generator import build
from tiny_mergevq import write_images
from torch import Tensor, nn

import mergevq_mm.models.generators.tokenizer  # noqa: F401
from mergevq_mm.engine.testing import run_test
from mergevq_mm.models.generators.generation_request import seeds_of
from mergevq_mm.models.utils.keep_sampling import KeepSampler
from mergevq_mm.models.utils.merge_schedule import merge_schedule
from mergevq_mm.registry import MODELS
from mergevq_mm.utils import config as config_utils

REPO = Path(__file__).parents[1]
CONFIGS = [
    *sorted((REPO / 'configs').glob('mergear_*.py')),
    *sorted((REPO / 'configs').glob('randar_*.py')),
]
QUICKSTART = sorted((REPO / 'configs' / 'quickstart').glob('*ar_mnist5k*.py'))
EMOJI = sorted((REPO / 'configs' / 'emoji').glob('*ar_emoji*.py'))
ARCH = dict(embed_dims=32, num_layers=1, num_heads=2, ffn_multiple=16)


@MODELS.register_module(force=True)
class MeanColours(nn.Module):
    """Three means."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3))


@pytest.fixture(scope='module')
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """12 noise images of 8×8 pixels and two classes in train and in val."""
    root = tmp_path_factory.mktemp('images')
    for split in ('train', 'val'):
        write_images(root, per_class=6, split=split, size=8)
    return root


def load(path: Path) -> Config:
    """A config whose model can be built."""
    cfg = Config.fromfile(path)
    assert cfg.model.type.split('.')[-1] in MODELS.module_dict
    return cfg


def shrink(cfg: Config, root: Path, work_dir: Path, grid: tuple[int, int]) -> Config:
    """A narrow model, few and small images; recipe, K and loops stay."""
    cfg.model.arch = ARCH
    cfg.model.tokenizer = dict(
        type='mergevq_mm.FakeTokenizer', grid=grid, split=(6, 12)
    )
    cfg.model.num_classes = 2
    train = cfg.train_dataloader
    train.batch_size, train.num_workers, train.persistent_workers = 2, 0, False
    if train.dataset.type == 'mergevq_mm.MergeVQCodes':
        train.dataset = dict(
            type='mergevq_mm.FakeCodes',
            keeps=build_keeps(cfg.model.keep),
            length=grid[0] * grid[1],
            bits=18,
        )
    else:
        train.dataset.update(data_root=str(root), num_classes=2)
    for loader in (cfg.val_dataloader, cfg.test_dataloader):
        loader.update(batch_size=2, num_workers=0, persistent_workers=False)
        loader.dataset.update(data_root=str(root), num_classes=2)
    cfg.work_dir, cfg.experiment_name = str(work_dir), work_dir.name
    cfg.train_cfg.update(max_epochs=1, val_interval=1)
    # Heads begin with zeros: the other parts learn from the second step on.
    cfg.optim_wrapper.accumulative_counts = 1
    cfg.log_level = 'WARNING'
    features = dict(
        type='mergevq_mm.BackboneFeatures',
        network=dict(type='mergevq_mm.MeanColours'),
        random_init=True,
    )
    frechet = dict(type='mergevq_mm.GenerationFrechet', fake_nums=4, extractor=features)
    cfg.val_evaluator.metrics = [frechet]
    cfg.test_evaluator.metrics = [copy.deepcopy(frechet)]
    config_utils.adapt_to_device(cfg)
    config_utils.complete_hooks(cfg)
    return cfg


def build_keeps(keep: dict) -> tuple[int, ...]:
    """All K of a config."""
    return tuple(sorted(KeepSampler(**keep).candidates))


def train(cfg: Config) -> Runner:
    """Train; all weights have to move."""
    runner = Runner.from_cfg(cfg)
    before = {k: v.clone() for k, v in runner.model.state_dict().items()}
    runner.train()
    after = runner.model.state_dict()
    learned = [n for n, p in runner.model.named_parameters() if p.requires_grad]
    still = [name for name in learned if torch.equal(before[name], after[name])]
    assert not still, f'never updated: {still}'
    return runner


# ------------------------------------------------------------------------ the configs


@pytest.mark.parametrize('path', CONFIGS, ids=lambda path: path.stem)
def test_recipe(path: Path) -> None:
    """Spec sections 11.1 and 11.3, and row 15 of section 17."""
    cfg = Config.fromfile(path)
    assert cfg.default_scope == 'mmagic'
    wrapper = cfg.optim_wrapper
    assert set(wrapper) == {
        *('type', 'optimizer', 'paramwise_cfg', 'clip_grad', 'accumulative_counts')
    }
    assert wrapper.optimizer == dict(
        type='AdamW', lr=4e-4, betas=(0.9, 0.95), weight_decay=0.05
    )
    assert wrapper.clip_grad == dict(max_norm=1.0)
    assert cfg.model.label_smoothing == 0.1
    batch = 8 * cfg.train_dataloader.batch_size
    assert batch * wrapper.accumulative_counts == 1024
    assert cfg.auto_scale_lr.base_batch_size == batch
    assert cfg.train_cfg.max_epochs == cfg.param_scheduler[-1].end == 300
    keeps = build_keeps(cfg.model.keep)
    coarse = 'g+r' in path.stem
    expected = [n * n for n in (range(12, 17) if coarse else range(16, 33, 2))]
    assert list(keeps) == expected
    assert all(math.isqrt(k) ** 2 == k for k in keeps)
    name = 'mergevq_g+r' if coarse else 'mergevq_g'
    assert cfg.model.tokenizer.model == f'configs/{name}.py'
    assert f'/{name}/' in cfg.model.tokenizer.checkpoint
    if 'online' not in path.stem:
        assert cfg.train_dataloader.dataset.root.endswith(f'/{name}')
    types = [metric.type for metric in cfg.test_evaluator.metrics]
    statistics = 'mergevq_mm.GenerationStatistics'
    fid = 'mergevq_mm.InceptionFID'
    assert types == [fid, 'IS', 'PrecisionAndRecall', statistics]
    # The paper's protocol: 50,000 images against the suite's statistics of ImageNet.
    whole = cfg.test_evaluator.metrics[0]
    assert whole.prefix == 'FID-50k' and whole.fake_nums == 50000
    assert whole.statistics.endswith('/VIRTUAL_imagenet256_labeled.npz')
    assert 'real_stats' not in whole
    assert cfg.val_evaluator.metrics[0].type == fid
    if 'mergear' in path.stem:  # as the authors' script draws
        assert cfg.model.sample_cfg.guidance == [1.9, 2.0]
    if 'randar' in path.stem:
        assert cfg.model.sample_cfg.guidance_schedule == 'linear'
        assert 'window' not in cfg.model


@pytest.mark.parametrize(
    'path', [*CONFIGS, *QUICKSTART, *EMOJI], ids=lambda path: path.stem
)
def test_tokenizer(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without its weights; each K can be reached."""
    monkeypatch.chdir(REPO)
    cfg = Config.fromfile(path)
    tokenizer = MODELS.build(cfg.model.tokenizer)
    small = {'quickstart': (32, 4), 'emoji': (64, 8)}
    size, stride = small.get(path.parent.name, (256, 16))
    if '_g.' in path.name:
        stride = 8
    assert tokenizer.grid == (size // stride, size // stride)
    assert tokenizer.stride == stride and tokenizer.learned_recovery
    split = (6, 6, 6) if path.parent.name in small else (6, 12)
    assert tuple(tokenizer.split) == split and tokenizer.bits == 18
    with torch.device('meta'):
        backbone = MODELS.build(
            Config.fromfile(cfg.model.tokenizer.model).model.backbone
        )
    for keep in build_keeps(cfg.model.keep):
        plan = merge_schedule(
            tokenizer.length, keep, backbone.num_layers, backbone.schedule
        )
        assert tokenizer.length - sum(plan) == keep


def test_codes_of_another_tokenizer(images: Path, tmp_path: Path) -> None:
    cfg = load(REPO / 'configs/mergear_l_g+r.py')
    cfg = shrink(cfg, images, tmp_path / 'other', (16, 16))
    cfg.train_dataloader.dataset.fingerprint = 'b' * 64
    message = (
        'codes of the tokenizer bbbbbbbbbbbb…, but model.tokenizer is aaaaaaaaaaaa'
    )
    with pytest.raises(ValueError, match=message):
        Runner.from_cfg(cfg).train()


def parameters(width: int, depth: int, keeps: int, classes: int = 1000) -> int:
    """Weights of a generator, counted by hand."""
    hidden = -(-(8 * width // 3) // 256) * 256
    block = 4 * width**2 + 3 * width * hidden + 2 * width  # attention, SwiGLU, norms
    embeddings = (classes + 1) + keeps + 2**6 + 2**12  # class or none, K, both parts
    head = 2 * block + width + (2**6 + 2**12) * width
    return depth * block + embeddings * width + head


@pytest.mark.parametrize(
    ('name', 'width', 'depth'), [('b', 768, 12), ('l', 1024, 24), ('xl', 1280, 36)]
)
def test_sizes(name: str, width: int, depth: int) -> None:
    """Widths and depths of LlamaGen; the vocabulary is factorised here."""
    cfg = load(REPO / f'configs/mergear_{name}_g+r.py')
    cfg.model.tokenizer = dict(
        type='mergevq_mm.FakeTokenizer', grid=(16, 16), split=(6, 12)
    )
    with torch.device('meta'):
        model = MODELS.build(cfg.model)
    count = sum(p.numel() for p in model.parameters())
    assert count == parameters(width, depth, keeps=5)
    if name == 'l':  # the released generator, which has no instruction tokens
        assert round((count - 5 * width) / 1e6, 1) == 343.6


@pytest.mark.parametrize(
    'name',
    ['mergear_l_g+r', 'mergear_l_g+r_distinct', 'mergear_l_g+r_online', 'randar_l_g+r'],
)
def test_training_and_generation(name: str, images: Path, tmp_path: Path) -> None:
    cfg = load(REPO / f'configs/{name}.py')
    cfg = shrink(cfg, images, tmp_path / name, (16, 16))
    if 'online' in name:  # resized to 256, a crop of 32
        cfg.train_dataloader.dataset.pipeline[2].crop_size = 32
    runner = train(cfg)
    scalars = runner.message_hub.log_scalars
    assert scalars['val/gen/frechet'].current() > 0
    assert np.isfinite(scalars['train/loss'].current())
    assert scalars['train/nonfinite'].current() == 0
    assert scalars['train/keep'].current() in build_keeps(cfg.model.keep)
    # The picture: 4 images of 32×32, doubled, with gutters.
    grid = Image.open(tmp_path / name / 'vis_data' / 'samples_epoch_1.png')
    assert grid.size == (4 * (64 + 6) + 6, 64 + 12)
    decayed = {
        parameter.ndim
        for group in runner.optim_wrapper.optimizer.param_groups
        for parameter in group['params']
        if group['weight_decay'] > 0
    }
    flat = {
        parameter.ndim
        for group in runner.optim_wrapper.optimizer.param_groups
        for parameter in group['params']
        if group['weight_decay'] == 0
    }
    assert flat == {1} and 1 not in decayed
    saved = torch.load(tmp_path / name / 'epoch_1.pth', weights_only=True)
    assert not any(key.startswith('tokenizer') for key in saved['state_dict'])


@pytest.mark.parametrize('name', ['mergear_l_g', 'randar_l_g'])
def test_training_at_stride_8(name: str, images: Path, tmp_path: Path) -> None:
    cfg = load(REPO / f'configs/{name}.py')
    cfg = shrink(cfg, images, tmp_path / name, (32, 32))
    cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
    cfg.test_cfg = cfg.test_dataloader = cfg.test_evaluator = None
    train(cfg)


@pytest.mark.parametrize('path', QUICKSTART, ids=lambda path: path.stem)
def test_quickstart(path: Path, images: Path, tmp_path: Path) -> None:
    cfg = load(path)
    evaluators = copy.deepcopy(cfg.test_evaluator.metrics)
    cfg = shrink(cfg, images, tmp_path / path.stem, (8, 8))
    cfg.train_cfg.update(max_epochs=2, val_interval=2)
    assert evaluators[0].type == 'mergevq_mm.GenerationFrechet'
    assert evaluators[0].reference.split == 'train'
    for loader in (cfg.val_dataloader, cfg.test_dataloader):
        loader.dataset.pipeline[1].update(crop_size=16, padding=4)
    reference = copy.deepcopy(cfg.val_dataloader.dataset)
    reference.split = 'train'
    cfg.val_evaluator.metrics[0].reference = reference
    runner = train(cfg)
    scalars = runner.message_hub.log_scalars
    assert scalars['val/gen/frechet'].current() > 0
    assert scalars['val/gen/frechet_reference'].current() >= 0


@pytest.mark.parametrize(
    'path',
    [
        pytest.param(
            path, marks=[] if 'randar' in path.stem else pytest.mark.slow, id=path.stem
        )
        for path in EMOJI
    ],
)
def test_emoji(path: Path, images: Path, tmp_path: Path) -> None:
    cfg = load(path)
    judge = cfg.test_evaluator.metrics[-1]
    assert judge.type == 'mergevq_mm.ClassConsistency' and judge.fake_nums == 900
    trained = Config.fromfile(path.with_name('judge_emoji.py'))
    assert judge.classifier.head.num_classes == trained.model.head.num_classes == 9
    sizes = {judge.input_size, trained.test_pipeline[1].scale}
    resized = [s.scale for s in trained.train_pipeline if s.type.endswith('.Resize')]
    assert sizes == set(resized) and len(resized) == 1
    assert cfg.model.num_classes == cfg.val_dataloader.dataset.num_classes == 9
    cfg = shrink(cfg, images, tmp_path / path.stem, (8, 8))
    cfg.train_cfg.update(max_epochs=2, val_interval=2)
    assert train(cfg).message_hub.log_scalars['val/gen/frechet'].current() > 0


def test_schedules() -> None:
    """Learning rates over 10 steps an epoch: warm-up, peak, end."""
    for name, peak, last in (('mergear_l_g+r', 6, 0.1), ('randar_l_g+r', 40, 0.05)):
        cfg = Config.fromfile(REPO / f'configs/{name}.py')
        weight = nn.Parameter(torch.zeros(1))
        optimizer = torch.optim.SGD([weight], lr=1.0)
        from mmengine.registry import PARAM_SCHEDULERS

        schedulers = []
        for scheduler in cfg.param_scheduler:
            scheduler.pop('convert_to_iter_based')
            kind = PARAM_SCHEDULERS.get(scheduler.pop('type'))
            schedulers.append(
                kind.build_iter_from_epoch(
                    optimizer=optimizer, epoch_length=10, **scheduler
                )
            )
        rates = []
        for _ in range(3000):
            rates.append(optimizer.param_groups[0]['lr'])
            optimizer.step()
            for scheduler in schedulers:
                scheduler.step()
        assert rates[0] < 0.01
        assert np.argmax(rates) == pytest.approx(10 * peak, abs=1)
        assert max(rates) == pytest.approx(1)
        assert rates[-1] == pytest.approx(last, abs=0.001)


# ------------------------------------------------------- mmagic's loop and its metrics


class FakeInception(nn.Module):
    """StyleGAN's interface: features or class probabilities of 8-bit images."""

    def forward(
        self, x: Tensor, return_features: bool = False, no_output_bias: bool = False
    ) -> Tensor:
        pooled = F.adaptive_avg_pool2d(x.float() / 255, 2)
        if return_features:
            return pooled[:, :2].flatten(1)  # red and green, 2×2
        return (pooled.flatten(1) * 9).softmax(dim=1)


class FakeVGG(nn.Module):
    """Four features."""

    def forward(self, x: Tensor, return_features: bool = False) -> Tensor:
        return F.adaptive_avg_pool2d(x[:, :2].float() / 255, (1, 2)).flatten(1)


FAKE = 12


@pytest.fixture
def evaluation(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    """The config of MergeAR-L with a fake model and scripts in place of the nets."""
    monkeypatch.chdir(tmp_path)
    inception = tmp_path / 'inception.pt'
    torch.jit.script(FakeInception()).save(str(inception))
    vgg = tmp_path / 'work_dirs' / 'cache' / 'vgg16.pt'  # mmagic looks only there
    vgg.parent.mkdir(parents=True)
    torch.jit.script(FakeVGG()).save(str(vgg))
    cfg = Config.fromfile(REPO / 'configs/mergear_l_g+r.py')
    tests = copy.deepcopy(cfg.test_evaluator.metrics)
    vals = copy.deepcopy(cfg.val_evaluator.metrics)
    cfg = shrink(cfg, images, tmp_path / 'work', (4, 4))
    cfg.experiment_name = tmp_path.name
    for metrics in (tests, vals):
        for metric in metrics:
            metric.fake_nums = FAKE
            if metric.type in ('mergevq_mm.InceptionFID', 'IS'):
                metric.inception_path = str(inception)
            if 'statistics' in metric:
                metric.statistics = str(tmp_path / 'published.npz')
            if 'real_stats' in metric:
                metric.real_stats = str(tmp_path / 'stats' / 'real.npz')
        metrics.append(cfg.test_evaluator.metrics[0])
    tests[1].splits = 2
    tests[2].vgg16_pkl = str(tmp_path / 'vgg.pkl')
    tests[-1].fake_nums = FAKE
    features = quarters(real(images))
    published = dict(mu=features.mean(0) + 0.1, sigma=np.cov(features, rowvar=False))
    np.savez(tmp_path / 'published.npz', **published)
    cfg.test_evaluator.metrics, cfg.val_evaluator.metrics = tests, vals
    cfg.model = dict(
        type='mergevq_mm.FakeGenerator',
        tokenizer=dict(type='mergevq_mm.FakeTokenizer'),
        num_classes=2,
        keep=9,
    )
    for loader in (cfg.val_dataloader, cfg.test_dataloader):
        loader.batch_size = 4
        load_image, _, _, pack = loader.dataset.pipeline
        loader.dataset.pipeline = [load_image, pack]
    return cfg


def generated(number: int = FAKE) -> np.ndarray:
    """What the evaluation draws: N×8×8×3 uint8."""
    model = build(num_classes=2, keep=9).eval()
    samples = model.val_step(dict(inputs=dict(num_batches=number)))
    fake = torch.stack([sample.fake_img for sample in samples]).flip(1)
    return fake.permute(0, 2, 3, 1).byte().numpy()


def real(root: Path) -> np.ndarray:
    """The validation images: N×8×8×3 uint8."""
    paths = sorted((root / 'val').rglob('*.png'))
    return np.stack([np.asarray(Image.open(path)) for path in paths])


def quarters(pixels: np.ndarray) -> np.ndarray:
    """Means of the quarters, red then green: N×8."""
    x = pixels.astype(np.float64)[..., :2] / 255  # N×8×8×2
    x = x.reshape(len(x), 2, 4, 2, 4, 2).mean((2, 4))  # N×2×2×2
    return x.transpose(0, 3, 1, 2).reshape(len(x), -1)


def halves(pixels: np.ndarray) -> np.ndarray:
    """Means of the left and of the right half, red then green: N×4."""
    x = pixels[..., :2].reshape(len(pixels), 8, 2, 4, 2).mean((1, 3)) / 255  # N×2×2
    return x.transpose(0, 2, 1).reshape(len(x), -1)


def frechet(a: np.ndarray, b: np.ndarray) -> float:
    """The textbook formula."""
    cov_a, cov_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    # The trace of the root, also of singular matrices: blue does not vary.
    cross = np.sqrt(np.linalg.eigvals(cov_a @ cov_b).real.clip(0)).sum()
    return np.square(a.mean(0) - b.mean(0)).sum() + np.trace(cov_a + cov_b) - 2 * cross


def inception_score(pixels: np.ndarray, splits: int) -> float:
    """exp of the mean divergence from the mean prediction, part by part."""
    resized = [Image.fromarray(p).resize((299, 299), Image.BICUBIC) for p in pixels]
    x = torch.from_numpy(np.stack([np.array(p) for p in resized])).permute(0, 3, 1, 2)
    chances = FakeInception()(x).numpy()
    parts = np.split(chances, splits)
    return np.mean(
        [np.exp(np.mean([entropy(p, part.mean(0)) for p in part])) for part in parts]
    )


def precision(probes: np.ndarray, manifold: np.ndarray, k: int = 3) -> float:
    """Share of the probes within the ball to the k-th neighbour of a manifold point."""
    within = 0
    radii = [np.sort(np.linalg.norm(manifold - point, axis=1))[k] for point in manifold]
    for probe in probes:
        distances = np.linalg.norm(manifold - probe, axis=1)
        within += any(d <= r for d, r in zip(distances, radii, strict=True))
    return within / len(probes)


def test_metrics_of_generated_images(
    evaluation: Config, images: Path, tmp_path: Path
) -> None:
    metrics = run_test(Runner.from_cfg(evaluation))
    fakes, reals = generated(), real(images)
    seen = quarters(fakes), quarters(reals) + 0.1  # the published ones are not val's
    assert metrics['FID-50k/fid'] == pytest.approx(frechet(*seen), rel=1e-3)
    offset = np.square(seen[0].mean(0) - seen[1].mean(0)).sum()
    assert metrics['FID-50k/mean'] == pytest.approx(offset, rel=1e-3)
    parts = metrics['FID-50k/mean'] + metrics['FID-50k/cov']
    assert metrics['FID-50k/fid'] == pytest.approx(parts)
    score = inception_score(fakes, splits=2)
    assert metrics['IS-50k/is'] == pytest.approx(score, rel=1e-5)
    sides = [halves(x) for x in (fakes, reals)]
    assert metrics['PR-10k/precision'] == pytest.approx(precision(*sides))
    assert metrics['PR-10k/recall'] == pytest.approx(precision(*sides[::-1]))
    means = [x.mean((1, 2)) / 127.5 - 1 for x in (fakes, reals)]
    assert metrics['gen/frechet'] == pytest.approx(frechet(*means), rel=1e-3)
    assert metrics['gen/distinct'] == 9
    assert (tmp_path / 'work' / 'vis_data' / 'samples_test.png').is_file()


def test_two_runs_and_another_batch_size_agree(evaluation: Config) -> None:
    metrics = evaluation.test_evaluator.metrics
    evaluation.test_evaluator.metrics = [metrics[0], metrics[-1]]
    first = run_test(Runner.from_cfg(evaluation))
    evaluation.test_dataloader.batch_size = 6
    evaluation.experiment_name += '_again'
    again = run_test(Runner.from_cfg(evaluation))
    assert again['FID-50k/fid'] == pytest.approx(first['FID-50k/fid'], rel=1e-4)
    assert again['gen/frechet'] == pytest.approx(first['gen/frechet'], rel=1e-6)


def test_validation_keeps_its_statistics_and_knows_them(
    evaluation: Config, images: Path, tmp_path: Path
) -> None:
    """Those of the validation images, never of others."""
    evaluation.test_evaluator.metrics = evaluation.val_evaluator.metrics[:1]
    expected = frechet(quarters(generated()), quarters(real(images)))
    for name in ('first', 'again'):  # the second time they come from the file
        evaluation.experiment_name = name
        metrics = run_test(Runner.from_cfg(evaluation))
        assert metrics['FID-5k/fid'] == pytest.approx(expected, rel=1e-3)
        assert (tmp_path / 'stats' / 'real.npz').is_file()
    write_images(tmp_path / 'other', per_class=6, split='val', size=8)
    evaluation.experiment_name = 'other'
    evaluation.test_dataloader.dataset.data_root = str(tmp_path / 'other')
    with pytest.raises(ValueError, match=r"real.npz' was made with real='ImageFolder"):
        run_test(Runner.from_cfg(evaluation))


def test_visualization_hook_of_mmagic(evaluation: Config, tmp_path: Path) -> None:
    """Chosen classes in training, single images in the test."""
    cfg = evaluation
    cfg.train_dataloader.batch_size = 4
    cfg.train_dataloader.dataset.update(keeps=[9], length=16, bits=6)
    cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
    cfg.custom_hooks = [
        dict(
            type='VisualizationHook',
            interval=1,
            n_samples=3,
            n_row=3,
            vis_kwargs_list=dict(
                type='Arguments',
                name='classes',
                forward_kwargs=dict(labels=[1, 0, 1], first=4),
            ),
        )
    ]
    runner = Runner.from_cfg(cfg)
    runner.train()
    (path,) = tmp_path.rglob('classes_*.png')
    images, _ = runner.model.generate([1, 0, 1], seeds=seeds_of(0, [4, 5, 6]))
    expected = images.add(1).mul(127.5).round().permute(0, 2, 3, 1).byte().numpy()
    grid = np.asarray(Image.open(path))  # torchvision's, with borders of 2 pixels
    for i, image in enumerate(expected):
        np.testing.assert_array_equal(grid[2:10, 2 + 10 * i : 10 + 10 * i], image)
    runner.test()
    found = sorted(path.name for path in tmp_path.rglob('test_fake_img_*.png'))
    assert len(found) >= FAKE


def test_resumed_training_equals_one_run(images: Path, tmp_path: Path) -> None:
    def make(name: str, epochs: int, **overrides: object) -> Config:
        cfg = load(REPO / 'configs/mergear_l_g+r.py')
        cfg = shrink(cfg, images, tmp_path / name, (16, 16))
        cfg.train_cfg.max_epochs = epochs
        cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
        cfg.param_scheduler = None
        cfg.merge_from_dict(overrides)
        return cfg

    whole = Runner.from_cfg(make('whole', 2))
    whole.train()
    Runner.from_cfg(make('first', 1)).train()
    path = str(tmp_path / 'first' / 'epoch_1.pth')
    rest = Runner.from_cfg(make('rest', 2, resume=True, load_from=path))
    rest.train()
    expected = whole.model.state_dict()
    for name, value in rest.model.state_dict().items():
        assert torch.equal(value, expected[name]), name
