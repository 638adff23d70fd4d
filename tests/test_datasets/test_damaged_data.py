"""Folders as they come: odd pictures, damaged files, links; and a training on them."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from mmengine.model import BaseModel
from mmengine.runner import Runner
from PIL import Image

from mergevq_mm.datasets import ImageFolder, UnreadableImageError
from mergevq_mm.datasets.links import check_links

PIPELINE = [
    dict(type='mergevq_mm.LoadImage'),
    dict(type='mmpretrain.RandomResizedCrop', scale=8),
    dict(type='mmpretrain.RandomFlip', prob=0.5),
    dict(type='mmpretrain.PackInputs'),
]
ODD = ['cmyk', 'grey', 'rgba', 'sixteen bits', 'one pixel', 'long', 'палитра größe 图']
DAMAGED = ['truncated', 'empty', 'text', 'enormous']


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def write(folder: Path, kind: str) -> Path:
    """One picture or damaged file, named after what it is."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f'{kind}.{"jpg" if kind in ("cmyk", "truncated") else "png"}'
    if kind == 'cmyk':
        Image.fromarray(noise(9, 9, 4), 'CMYK').save(path)
    elif kind == 'grey':
        Image.fromarray(noise(9, 9)).save(path)
    elif kind == 'rgba':
        Image.fromarray(noise(9, 9, 4)).save(path)
    elif kind == 'sixteen bits':
        cv2.imwrite(str(path), noise(9, 9).astype(np.uint16) * 257)
    elif kind == 'one pixel':
        Image.new('RGB', (1, 1), (1, 2, 3)).save(path)
    elif kind == 'long':
        Image.new('RGB', (20000, 3), (9, 9, 9)).save(path)
    elif kind == 'truncated':
        Image.fromarray(noise(64, 64, 3)).save(path)
        path.write_bytes(path.read_bytes()[:2000])
    elif kind == 'empty':
        path.touch()
    elif kind == 'text':
        path.write_text('no picture')
    elif kind == 'enormous':
        Image.new('1', (20000, 20000)).save(path)  # 50 kB, in memory 1.2 GB
    else:
        Image.fromarray(noise(9, 9, 3)).convert('P').save(path)
    return path


def folder(root: Path, **kwargs: Any) -> ImageFolder:
    return ImageFolder(str(root), split='train', pipeline=PIPELINE, **kwargs)


def test_odd_pictures_pass_the_pipeline(tmp_path: Path) -> None:
    for kind in ODD:
        write(tmp_path / 'train' / 'класс', kind)
    data = folder(tmp_path, test_mode=True)
    assert len(data) == len(ODD)
    for sample in data:
        assert sample['inputs'].shape == (3, 8, 8)
        assert sample['inputs'].dtype == torch.uint8
    assert data.CLASSES == ('класс',)


@pytest.mark.parametrize('kind', DAMAGED)
def test_damaged_files_name_themselves(tmp_path: Path, kind: str) -> None:
    path = write(tmp_path / 'train' / 'a', kind)
    write(tmp_path / 'train' / 'a', 'grey')
    strict = folder(tmp_path, test_mode=True)
    paths = [strict.get_data_info(i)['img_path'] for i in range(2)]
    index = paths.index(str(path))
    with pytest.raises(UnreadableImageError) as caught:
        strict[index]
    assert str(path) in str(caught.value)
    training = folder(tmp_path, max_bad=1)
    assert training[index]['inputs'].shape == (3, 8, 8)
    assert training.bad_files() == [str(path)]


# ---------------------------------------------------------------------------- links


def test_a_deep_chain_of_links_is_followed(tmp_path: Path) -> None:
    write(tmp_path / 'real', 'grey')
    target = tmp_path / 'real'
    for i in range(20):
        link = tmp_path / f'link_{i}'
        link.symlink_to(target)
        target = link
    (tmp_path / 'train').mkdir()
    (tmp_path / 'train' / 'a').symlink_to(target)
    nested = tmp_path / 'train' / 'b'
    for name in 'xyzxyzxyzxyz':
        nested = nested / name
    write(nested, 'rgba')
    (tmp_path / 'train' / 'b' / 'again').symlink_to(tmp_path / 'real')  # no circle
    data = folder(tmp_path)
    assert len(data) == 3
    names = [Path(data.get_data_info(i)['img_path']).name for i in range(3)]
    assert sorted(names) == ['grey.png', 'grey.png', 'rgba.png']


@pytest.mark.parametrize('target', ['..', '.', '../..'])
def test_a_link_in_a_circle_is_named(tmp_path: Path, target: str) -> None:
    write(tmp_path / 'train' / 'a', 'grey')
    link = tmp_path / 'train' / 'a' / 'loop'
    link.symlink_to(target)
    # The last one leads above the data, which makes a circle one folder later.
    name = 'loop/train' if target == '../..' else 'loop'
    message = rf'the link ".*/{name}" leads back to ".*", in which it lies; remove it'
    with pytest.raises(ValueError, match=message):
        folder(tmp_path)


def test_links_to_each_other_and_dead_links(tmp_path: Path) -> None:
    write(tmp_path / 'train' / 'a', 'grey')
    (tmp_path / 'train' / 'a' / 'dead.png').symlink_to(tmp_path / 'nowhere')
    assert len(folder(tmp_path)) == 1
    (tmp_path / 'train' / 'a' / 'x').symlink_to('y')
    (tmp_path / 'train' / 'a' / 'y').symlink_to('x')
    with pytest.raises(ValueError, match='cannot be read .Too many levels of symbolic'):
        folder(tmp_path)


def test_a_folder_without_access(tmp_path: Path) -> None:
    write(tmp_path / 'train' / 'a', 'grey')
    top = Path(tempfile.gettempdir())
    for parent in [tmp_path, *tmp_path.parents]:
        if parent.is_relative_to(top) and parent != top:
            parent.chmod(0o755)
    (tmp_path / 'train' / 'a').chmod(0o000)
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)  # root may read everything
    try:
        with pytest.raises(ValueError, match='train/a" cannot be read .Permission den'):
            check_links(str(tmp_path / 'train'))
    finally:
        os.seteuid(user)
        (tmp_path / 'train' / 'a').chmod(0o755)


# ------------------------------------------------------------------------- training


class Mean(BaseModel):
    """Learns one number; counts its images."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(()))
        self.images = 0

    def forward(self, inputs: Any, data_samples: Any = None, mode: str = 'loss') -> Any:
        self.images += len(inputs)
        return dict(loss=(self.scale * inputs.float().mean()).square())


def train(root: Path, work_dir: Path, workers: int = 0) -> Runner:
    runner = Runner(
        model=Mean(),
        work_dir=str(work_dir),
        train_dataloader=dict(
            batch_size=20,
            num_workers=workers,
            sampler=dict(type='DefaultSampler', shuffle=True),
            collate_fn=dict(type='default_collate'),
            dataset=folder(root),
        ),
        train_cfg=dict(by_epoch=True, max_epochs=2),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=1e-9)),
        custom_hooks=[dict(type='mergevq_mm.DamagedFilesHook')],
        experiment_name=str(work_dir),
        log_level='ERROR',
    )
    runner.train()
    return runner


def with_one_per_cent(root: Path, number: int = 300) -> list[str]:
    """Noise images, of which one in a hundred is damaged; the damaged ones."""
    for i in range(number):
        name = root / 'train' / 'ab'[i % 2] / f'{i}.png'
        name.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise(4, 4, 3)).save(name)
    kinds, bad = ['truncated', 'empty', 'text'], []
    for i in range(0, number, 100):
        path = root / 'train' / 'a' / f'{i}.png'
        write(root / 'kinds', kinds[i // 100 % 3]).replace(path)
        bad.append(str(path))
    return sorted(bad)


@pytest.mark.parametrize('workers', [0, 2])
def test_training_with_one_per_cent_of_damaged_files(
    tmp_path: Path, workers: int
) -> None:
    bad = with_one_per_cent(tmp_path / 'data')
    runner = train(tmp_path / 'data', tmp_path / 'run', workers)
    assert runner.model.images == 600  # nothing is left out
    assert (tmp_path / 'run' / 'damaged_files.txt').read_text().splitlines() == bad


def test_two_per_cent_are_too_many(tmp_path: Path) -> None:
    with_one_per_cent(tmp_path / 'data')
    for i in (2, 4, 6):
        (tmp_path / 'data' / 'train' / 'a' / f'{i}.png').write_text('')
    with pytest.raises(ValueError, match='max_bad=0.01 allows 3 unreadable images of'):
        train(tmp_path / 'data', tmp_path / 'run')
