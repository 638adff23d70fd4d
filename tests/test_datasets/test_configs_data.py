"""The data fragments of configs/ deliver what the models are promised."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine import Config
from mmengine.registry import MODELS, DefaultScope
from mmengine.runner import Runner
from PIL import Image

CONFIGS = Path(__file__).parents[2] / 'configs' / '_base_' / 'datasets'


@pytest.fixture(params=['mmpretrain', None])
def scope(request: pytest.FixtureRequest):
    """The fragments name all scopes, so that they work in any run."""
    if request.param is None:
        yield
        return
    with DefaultScope.overwrite_default_scope(request.param):
        yield


def write_root(root: Path, size: tuple[int, int], mode: str = 'RGB') -> None:
    rng = np.random.RandomState(0)
    shape = (size[1], size[0]) + ((3,) if mode == 'RGB' else ())
    for split in ('train', 'val'):
        for name in ('a', 'b'):
            folder = root / split / name
            folder.mkdir(parents=True)
            for i in range(2):
                pixels = rng.randint(0, 256, shape).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f'{i}.png')


def load(name: str, root: Path) -> Config:
    cfg = Config.fromfile(CONFIGS / name)
    for loader in (cfg.train_dataloader, cfg.val_dataloader):
        loader.update(batch_size=4, num_workers=0, persistent_workers=False)
        loader.dataset.update(data_root=str(root), num_classes=2)
    return cfg


def batches(cfg: Config) -> tuple[dict, dict]:
    preprocessor = MODELS.build(cfg.data_preprocessor)
    found = []
    for loader in (cfg.train_dataloader, cfg.val_dataloader):
        batch = next(iter(Runner.build_dataloader(loader, seed=0)))
        found.append(preprocessor(batch, training=True))
    return tuple(found)


def check_samples(batch: dict) -> None:
    samples = batch['data_samples']
    assert len(samples) == 4
    for sample in samples:
        path = Path(sample.img_path)
        assert path.is_file()
        assert int(sample.gt_label) == ['a', 'b'].index(path.parent.name)


@pytest.mark.parametrize('size', [(300, 270), (40, 90)])
def test_imagenet_views(tmp_path: Path, size: tuple[int, int], scope: None) -> None:
    write_root(tmp_path, size)
    train, val = batches(load('imagenet_mergevq_256.py', tmp_path))
    assert isinstance(train['inputs'], list)
    shapes = [tuple(view.shape) for view in train['inputs']]
    assert shapes == [(4, 3, 256, 256), (4, 3, 224, 224), (4, 3, 224, 224)]
    assert isinstance(val['inputs'], torch.Tensor)
    assert val['inputs'].shape == (4, 3, 256, 256)
    for view in [*train['inputs'], val['inputs']]:
        assert view.dtype == torch.float32
        assert view.min() >= -1 and view.max() <= 1 and view.std() > 0.05
    check_samples(train)
    check_samples(val)


def test_imagenet_recipe() -> None:
    cfg = Config.fromfile(CONFIGS / 'imagenet_mergevq_256.py')
    loader = cfg.train_dataloader
    assert loader.batch_size == 16 and loader.dataset.split == 'train'
    assert loader.dataset.data_root == cfg.val_dataloader.dataset.data_root
    assert cfg.val_dataloader.dataset.test_mode
    image, student, teacher = loader.dataset.pipeline[1].transforms
    assert [t.type.split('.')[1] for t in image] == [
        'ResizeEdge',
        'RandomCrop',
        'RandomFlip',
    ]
    assert image[0].interpolation == student[0].interpolation == 'bicubic'
    assert tuple(student[0].crop_ratio_range) == (0.08, 1.0)
    assert not any('Flip' in t.type for t in teacher)
    # The switch that the header promises.
    cfg.merge_from_dict(
        {'train_dataloader.dataset.pipeline.1.transforms.0.2.prob': 0.0}
    )
    assert cfg.train_dataloader.dataset.pipeline[1].transforms[0][2].prob == 0.0


def test_digits_are_padded_evenly_and_not_flipped(tmp_path: Path, scope: None) -> None:
    write_root(tmp_path, (28, 28), mode='L')
    train, val = batches(load('mnist5k.py', tmp_path))
    (image,) = train['inputs']
    assert image.shape == val['inputs'].shape == (4, 3, 32, 32)
    check_samples(train)
    check_samples(val)
    for batch, inputs in ((train, image), (val, val['inputs'])):
        for sample, found in zip(batch['data_samples'], inputs):
            digit = np.asarray(Image.open(sample.img_path), np.float32)
            expected = torch.from_numpy(np.pad(digit, 2) / 127.5 - 1)
            torch.testing.assert_close(found, expected.expand(3, 32, 32))
