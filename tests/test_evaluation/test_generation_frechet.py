"""The Fréchet distance of generated images, against numpy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmpretrain.structures import DataSample
from ready_processes import run_ranks
from tiny_generator import build
from torch import Tensor, distributed, nn
from torch.utils.data import DataLoader, Dataset

from mergevq_mm.evaluation import (
    GenerationFrechet,
    GenerationStatistics,
    InceptionFID,
)
from mergevq_mm.registry import DATASETS, MODELS
from mergevq_mm.utils.distributed import end_process_group

EXTRACTOR = dict(
    type='mergevq_mm.BackboneFeatures',
    network=dict(type='mergevq_mm._Colours'),
    random_init=True,
)
NUMBER, BATCH = 10, 4


@MODELS.register_module(force=True)
class _Colours(nn.Module):
    """Means of red, green and blue and of the upper half."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x.mean((2, 3)), x[:, :1, :4].mean((2, 3))], dim=1)


@DATASETS.register_module(force=True)
class _Noise(Dataset):
    """Noise images in BGR."""

    data_root, split = 'somewhere', 'val'

    def __init__(self, number: int = NUMBER, seed: int = 0) -> None:
        rng = torch.Generator().manual_seed(seed)
        shape = (number, 3, 8, 8)
        self.images = torch.randint(256, shape, generator=rng, dtype=torch.uint8)
        self.images[:, 0] //= 2  # less blue
        self.loads = 0

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> dict:
        self.loads += 1
        return dict(inputs=self.images[i], data_samples=DataSample().set_gt_label(0))


def expected_distance(fake: np.ndarray, real: np.ndarray) -> float:
    """The textbook formula; blue does not vary, so that matrices are singular."""
    a, b = np.cov(fake, rowvar=False), np.cov(real, rowvar=False)
    offset = np.square(fake.mean(0) - real.mean(0)).sum()
    cross = np.sqrt(np.linalg.eigvals(a @ b).real.clip(0)).sum()
    return offset + np.trace(a + b) - 2 * cross


def colours(rgb: Tensor) -> np.ndarray:
    """Features by hand: of images B×3×H×W in 0..255, RGB."""
    x = (rgb.double() / 127.5 - 1).numpy()
    return np.concatenate([x.mean((2, 3)), x[:, :1, :4].mean((2, 3))], axis=1)


def generated(number: int = NUMBER) -> Tensor:
    """The first images of a run, in 0..255, RGB."""
    model = build().eval()
    samples = model.val_step(dict(inputs=dict(num_batches=number)))
    return torch.stack([sample.fake_img for sample in samples]).flip(1)


def evaluate(metrics: Any, dataset: Dataset, batch_size: int = BATCH) -> dict:
    """What MultiValLoop does; the number of batches is returned too."""
    from mmagic.evaluation import Evaluator  # not before the package: processes

    evaluator = Evaluator(metrics)
    model, loader = build().eval(), DataLoader(dataset, batch_size=batch_size)
    evaluator.prepare_metrics(model, loader)
    batches = 0
    for group, sampler in evaluator.prepare_samplers(model, loader):
        for batch in sampler:
            evaluator.process(model.val_step(batch), batch, group)
            batches += 1
    return {**evaluator.evaluate(), 'batches': batches}


def evaluate_alone(made: GenerationFrechet, dataset: Dataset, batch_size: int) -> dict:
    """The same for one metric, without mmagic."""
    model, loader = build().eval(), DataLoader(dataset, batch_size=batch_size)
    made.prepare(model, loader)
    batches = made.get_metric_sampler(model, loader, [made])
    for batch in batches:
        made.process(batch, [sample.to_dict() for sample in model.val_step(batch)])
    return {**made.evaluate(), 'batches': len(batches)}


def metric(**overrides: Any) -> GenerationFrechet:
    return GenerationFrechet(
        **{**dict(extractor=EXTRACTOR, fake_nums=NUMBER), **overrides}
    )


def test_value() -> None:
    dataset = _Noise()
    real = dataset.images.flip(1)
    expected = expected_distance(colours(generated()), colours(real))
    for batch_size, batches in ((4, 3), (10, 1), (64, 1)):
        found = evaluate([metric()], dataset, batch_size)
        assert found['gen/frechet'] == pytest.approx(expected, rel=1e-5)
        assert found['batches'] == batches  # the last one is cut


def test_part_of_the_real_images_and_reference() -> None:
    dataset = _Noise(7)
    made = metric(
        fake_nums=4,
        real_nums=4,
        prefix='digits',
        reference=dict(type='mergevq_mm._Noise', number=9, seed=1),
    )
    found = evaluate([made], dataset)
    real = colours(dataset.images.flip(1))[[0, 2, 4, 6]]  # evenly spread
    others = colours(_Noise(9, 1).images.flip(1))[[0, 3, 5, 8]]
    expected = expected_distance(colours(generated(4)), real)
    assert found['digits/frechet'] == pytest.approx(expected, rel=1e-5)
    expected = expected_distance(others, real)
    assert found['digits/frechet_reference'] == pytest.approx(expected, rel=1e-5)
    assert made.protocol['num_real'] == made.protocol['num_fake'] == 4
    assert made.protocol['image_size'] == (8, 8)
    assert made.protocol['features'] == 'mergevq_mm._Colours'


def test_statistics_of_the_real_images_are_kept(tmp_path: Path) -> None:
    path = str(tmp_path / 'stats' / 'real.npz')
    first = _Noise()
    found = evaluate([metric(real_stats=path)], first)
    second = _Noise()
    again = metric(real_stats=path)
    assert evaluate([again], second) == found
    assert (first.loads, second.loads) == (NUMBER, 0)
    assert again.protocol['image_size'] == (8, 8)
    mean = np.load(path)['mean']
    np.testing.assert_allclose(mean, colours(first.images.flip(1)).mean(0), rtol=1e-5)
    with pytest.raises(ValueError, match=r'made with real=.*_Noise\(.*, 10, .*11'):
        evaluate([metric(real_stats=path)], _Noise(11))
    with pytest.raises(ValueError, match='made with num_real=10, not 5; delete'):
        evaluate([metric(real_stats=path, real_nums=5)], first)


class _Listed(_Noise):
    """Noise that says where its images lie, as mmpretrain's data sets do."""

    def __init__(self, names: str = 'abcdefghij', label: int = 0) -> None:
        super().__init__(len(names))
        self.names, self.label = names, label

    def get_data_info(self, i: int) -> dict:
        return dict(img_path=f'somewhere/val/{self.names[i]}.png', gt_label=self.label)


def test_statistics_of_other_images_are_refused(tmp_path: Path) -> None:
    """As many, in the same folder, of the same pipeline."""
    path = str(tmp_path / 'real.npz')
    found = evaluate([metric(real_stats=path)], _Listed())
    assert evaluate([metric(real_stats=path)], _Listed()) == found
    for other in (_Listed('abcdefghix'), _Listed(label=1)):
        with pytest.raises(ValueError, match="made with real='_Listed.*; delete"):
            evaluate([metric(real_stats=path)], other)


def test_published_statistics(tmp_path: Path) -> None:
    """They stand for the real images, and no image of the loader is read."""
    path, dataset = str(tmp_path / 'published.npz'), _Noise()
    published = colours(_Noise(50, seed=3).images.flip(1))
    mean, cov = published.mean(0), np.cov(published, rowvar=False)
    np.savez(path, mu=mean, sigma=cov, arr_0=np.zeros(3))
    made = metric(statistics=path)
    found = evaluate([made], dataset)['gen/frechet']
    expected = expected_distance(colours(generated()), published)
    assert found == pytest.approx(expected, rel=1e-5)
    assert dataset.loads == 0 and made.protocol['real'] == 'statistics published.npz'
    with pytest.raises(ValueError, match='both stand for the real images'):
        metric(statistics=path, real_stats=path)
    np.savez(path, mu=mean[:3], sigma=cov[:3, :3])
    with pytest.raises(ValueError, match='are of 3 features, but the extractor has 4'):
        evaluate([metric(statistics=path)], dataset)
    for wrong in (dict(mu=mean), dict(mu=mean, sigma=cov[:2])):
        np.savez(path, **wrong)
        with pytest.raises(ValueError, match='mu .*and sigma'):
            metric(statistics=path)
    np.savez_compressed(path, mu=np.zeros(8), sigma=np.zeros((4096, 4096)))
    with pytest.raises(ValueError, match='unpacks to .* bytes'):
        metric(statistics=path)
    objects = np.array([object()], dtype=object)  # of an array that nobody asks for
    np.savez(path, mu=mean, sigma=cov, names=objects)
    metric(statistics=path)
    Path(path).write_bytes(b'no zip')
    with pytest.raises(ValueError, match='is no .npz with mu and sigma'):
        metric(statistics=path)
    with pytest.raises(FileNotFoundError, match='gone.npz'):
        metric(statistics=str(tmp_path / 'gone.npz'))


def test_parts_of_fid(tmp_path: Path) -> None:
    """Against scipy's root, which returns one array in any version."""
    from scipy.linalg import sqrtm

    class Script(nn.Module):
        def forward(self, x: Tensor, return_features: bool = False) -> Tensor:
            return torch.stack([x[:, 0].float().mean((1, 2)), x[:, 1, 0, 0].float()], 1)

    torch.jit.script(Script()).save(str(tmp_path / 'inception.pt'))
    made = InceptionFID(NUMBER, str(tmp_path / 'inception.pt'), prefix='FID')
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(40, 5)), rng.normal(size=(30, 5)) @ rng.normal(size=(5, 5))
    moments = [(x.mean(0), np.cov(x, rowvar=False)) for x in (a, b + 0.3)]
    (mean_a, cov_a), (mean_b, cov_b) = moments
    found = made.compare(mean_a, cov_a, mean_b, cov_b)
    cov = np.trace(cov_a + cov_b - 2 * sqrtm(cov_a @ cov_b).real)
    assert found['cov'] == pytest.approx(cov, rel=1e-8)
    assert found['mean'] == pytest.approx(np.square(mean_a - mean_b).sum())
    assert found['fid'] == found['mean'] + found['cov']
    metrics = evaluate([made], _Noise())
    assert set(metrics) == {'FID/fid', 'FID/mean', 'FID/cov', 'batches'}
    with pytest.raises(FileNotFoundError, match='gone.pt'):
        InceptionFID(NUMBER, 'gone.pt')


def test_beside_a_metric_of_mmagic() -> None:
    """The images are generated once for both, whichever is first."""
    from mmagic.evaluation.metrics.base_gen_metric import GenerativeMetric

    class Brightness(GenerativeMetric):
        def prepare(self, module: nn.Module, dataloader: DataLoader) -> None:
            pass

        def process(self, data_batch: Any, data_samples: list[dict]) -> None:
            self.fake_results += [s['fake_img'].mean()[None] for s in data_samples]

        def compute_metrics(self, results: list[Tensor]) -> dict:
            return {'mean': torch.cat(results)[: self.fake_nums].mean().item()}

    dataset = _Noise()
    alone = evaluate([metric()], dataset)['gen/frechet']
    for ours_first in (True, False):
        pair = [metric(), Brightness(NUMBER, sample_model='orig', prefix='b')]
        found = evaluate(pair if ours_first else pair[::-1], dataset)
        assert found['gen/frechet'] == pytest.approx(alone, rel=1e-6)
        assert found['b/mean'] == pytest.approx(generated().mean().item(), rel=1e-5)
        assert found['batches'] == 3


def _rank(rank: int, folder: str, whole: dict) -> None:
    """What each of two processes does."""
    torch.set_num_threads(1)
    distributed.init_process_group(
        'gloo', init_method=f'file://{folder}/store', rank=rank, world_size=2
    )
    for batch_size in (BATCH, 5):
        made = metric(reference=dict(type='mergevq_mm._Noise', number=9, seed=1))
        found = evaluate_alone(made, _Noise(), batch_size)
        assert found.pop('batches') == {4: 2, 5: 1}[batch_size]
        assert found == pytest.approx(whole, rel=1e-6)
    end_process_group()


def test_diagnostics() -> None:
    """Beside another metric; the model asks for other codes as images go on."""
    made = GenerationStatistics(4, prefix='codes')
    found = evaluate([metric(), made], _Noise())
    assert found['codes/distinct'] == found['codes/distinct_max'] == 9
    assert found['batches'] == 3  # shared
    samples = [dict(sample_stats=dict(distinct=k, passes=1)) for k in (1, 2, 3, 6, 99)]
    made.process(None, samples)  # one too many
    assert made.evaluate() == {
        'codes/distinct': 3,
        'codes/distinct_max': 6,
        'codes/passes': 1,
        'codes/passes_max': 1,
    }
    with pytest.raises(ValueError, match='fake_nums=4 images .* but 3 came'):
        made.compute_metrics([{}] * 3)
    with pytest.raises(ValueError, match='fake_nums=0 leaves no image'):
        GenerationStatistics(0)


@pytest.mark.slow
def test_two_ranks_equal_one(tmp_path: Path) -> None:
    """Of images, real images and reference an odd number falls on each of them."""
    made = metric(reference=dict(type='mergevq_mm._Noise', number=9, seed=1))
    whole = evaluate([made], _Noise())
    whole.pop('batches')
    run_ranks(_rank, (str(tmp_path), whole))


@pytest.mark.parametrize(
    ('overrides', 'message'),
    [
        (dict(fake_nums=1), 'fake_nums=1 images have no covariance'),
        (dict(real_nums=0), 'real_nums=0 images have no covariance'),
        (dict(extractor=dict(type='mergevq_mm._Colours')), 'is no feature extractor'),
    ],
)
def test_bad_arguments(overrides: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        metric(**overrides)


def test_too_few_images() -> None:
    with pytest.raises(ValueError, match='real_nums=11 is more than the 10 images'):
        evaluate([metric(real_nums=11)], _Noise())
    made = metric()
    made.prepare(build().eval(), DataLoader(_Noise(), batch_size=BATCH))
    with pytest.raises(ValueError, match='fake_nums=10 images .* but 0 came'):
        made.compute_metrics([])
