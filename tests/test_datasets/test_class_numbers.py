"""Every split has the numbers of the training's classes, or is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from mmengine.config import Config
from PIL import Image

from mergevq_mm.datasets import ImageFolder
from mergevq_mm.datasets.class_numbers import check_same_classes
from mergevq_mm.datasets.packing import list_images, pack


def make(root: Path, **splits: str) -> str:
    """One image in each class folder; the letters of a split are its classes."""
    for split, classes in splits.items():
        for name in classes:
            touch(root / split / name / '0.png')
    return str(root)


def touch(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(path)


def write_list(root: Path, split: str, text: str) -> None:
    (root / 'meta').mkdir(exist_ok=True)
    (root / 'meta' / f'{split}.txt').write_text(text)


def labels(root: str | Path, split: str = 'val', **kwargs) -> list[int]:
    data = ImageFolder(str(root), split=split, pipeline=[], **kwargs)
    return [data.get_data_info(i)['gt_label'] for i in range(len(data))]


def test_a_split_that_lacks_a_class(tmp_path: Path) -> None:
    make(tmp_path, train='abc', val='ac', extra='bc')
    assert labels(tmp_path) == [0, 2]
    data = ImageFolder(str(tmp_path), data_prefix='extra', pipeline=[])
    assert data.get_gt_labels().tolist() == [1, 2]
    assert data.CLASSES == ('a', 'b', 'c')
    alone = ImageFolder(str(tmp_path / 'val'), pipeline=[])  # the root is the split
    assert alone.get_gt_labels().tolist() == [0, 2]
    assert labels(tmp_path, 'train') == [0, 1, 2]
    with pytest.raises(ValueError, match='num_classes=3.*2 class folders'):
        labels(tmp_path, num_classes=3)


def test_a_class_that_training_lacks(tmp_path: Path) -> None:
    make(tmp_path, train='abc', val='acd')
    for number in (None, 3):  # as many classes, of other names
        with pytest.raises(ValueError, match="'d'.*no class of the training.*/train"):
            labels(tmp_path, num_classes=number)
    assert labels(tmp_path, metainfo=dict(classes=list('abcd'))) == [0, 2, 3]


def test_no_training_beside(tmp_path: Path) -> None:
    make(tmp_path / 'own', val='ac')
    assert labels(tmp_path / 'own') == [0, 1]
    assert labels(tmp_path / 'own', metainfo=dict(classes=list('cba'))) == [2, 0]
    # A folder that is no split does not look beside itself.
    make(tmp_path, train='xyz', cub='ac')
    data = ImageFolder(str(tmp_path / 'cub'), pipeline=[])
    assert data.get_gt_labels().tolist() == [0, 1]


def test_names_to_show(tmp_path: Path) -> None:
    """Names that are not those of the folders go to them in their order."""
    make(tmp_path, train='abc', val='ac')
    names = ('ant', 'bee', 'cat')
    assert labels(tmp_path, metainfo=dict(classes=names)) == [0, 2]
    with pytest.raises(ValueError, match='metainfo names 2 classes.*has 3'):
        labels(tmp_path, metainfo=dict(classes=names[:2]))


def test_training_in_a_list(tmp_path: Path) -> None:
    make(tmp_path, train='abc', val='ac')
    write_list(tmp_path, 'train', 'a/0.png 2\nb/0.png 0\nc/0.png 1\n')
    assert labels(tmp_path, 'train') == [2, 0, 1]
    assert labels(tmp_path) == [2, 1]  # the folders, by the list of training
    data = ImageFolder(str(tmp_path), split='val', pipeline=[])
    assert data.CLASSES == ('b', 'c', 'a')
    # A list without class folders: as many of them, or an error.
    write_list(tmp_path, 'train', '0.png 0\n1.png 1\n2.png 2\n')
    with pytest.raises(ValueError, match='holds 2 class folders.*3 classes'):
        labels(tmp_path)


def test_lists_against_each_other(tmp_path: Path) -> None:
    make(tmp_path, train='abc', val='ac')
    write_list(tmp_path, 'val', 'a/0.png 0\nc/0.png 1\n')
    for listed in (False, True):  # training in folders, and in a list
        if listed:
            write_list(tmp_path, 'train', 'a/0.png 0\nb/0.png 1\nc/0.png 2\n')
        with pytest.raises(ValueError, match=r"val.txt.*'c' the number 1, .*'b' in"):
            labels(tmp_path)
    write_list(tmp_path, 'val', 'a/0.png 0\nc/0.png 2\n')
    assert labels(tmp_path) == [0, 2]
    write_list(tmp_path, 'val', f'{tmp_path}/val/c/0.png 1\n')  # no class folders
    assert labels(tmp_path) == [1]
    write_list(tmp_path, 'val', '0.png 3\n')
    with pytest.raises(ValueError, match='class id 3.*3 classes'):
        labels(tmp_path)


def test_packed_splits(tmp_path: Path) -> None:
    root = make(tmp_path / 'in', train='abc', val='ac')
    for split in ('train', 'val'):
        pack(list_images(root, split), tmp_path / 'out', split, 'tar')
    assert (tmp_path / 'out/meta/val.txt').read_text() == 'a/0.png 0\nc/0.png 2\n'
    assert labels(tmp_path / 'out') == [0, 2]


def test_hidden_folders_and_files(tmp_path: Path) -> None:
    make(tmp_path, train='ab', val='ab')
    for split in ('train', 'val'):
        touch(tmp_path / split / '.ipynb_checkpoints' / '0-checkpoint.png')
        touch(tmp_path / split / 'a' / '.ipynb_checkpoints' / '0.png')
        touch(tmp_path / split / 'b' / '._0.png')
        assert labels(tmp_path, split, num_classes=2) == [0, 1]
        names = [image.name for image in list_images(tmp_path, split)]
        assert names == ['a/0.png', 'b/0.png']
    flat = ImageFolder(data_prefix=str(tmp_path), with_label=False, pipeline=[])
    assert len(flat) == 4
    loop = tmp_path / 'train' / 'a' / '.cache'
    loop.symlink_to(tmp_path / 'train')  # nobody goes there
    assert labels(tmp_path, 'train') == [0, 1]


def test_packed_order_is_the_folders(tmp_path: Path) -> None:
    for name in ('a/x/1.png', 'a/x-y/1.png', 'a/x.png', 'A/1.PNG', 'b/10.png'):
        touch(tmp_path / 'train' / name)
    data = ImageFolder(str(tmp_path), split='train', pipeline=[])
    folder = [
        (str(Path(info['img_path']).relative_to(tmp_path / 'train')), info['gt_label'])
        for info in map(data.get_data_info, range(len(data)))
    ]
    images = list_images(tmp_path, 'train')
    assert [(image.name, image.label) for image in images] == folder


def test_same_classes() -> None:
    sets = {'one': ['a', 'b'], 'two': None, 'three': ('a', 'b', 'c'), 'four': ()}
    check_same_classes({**sets, 'five': ('ant', 'bee')}, 'Stop.')
    for other in (['a', 'c'], ['a', 'd'], ['b', 'a', 'c']):
        with pytest.raises(ValueError, match='class . is .* in one and .* in two; St'):
            check_same_classes({'one': ['a', 'b', 'c'], 'two': other}, 'Stop.')


def test_config_of_the_readme(tmp_path: Path) -> None:
    """``num_classes=None`` as the read-me has it."""
    make(tmp_path, train='abc', val='bc')
    images = Config(dict(data_root=str(tmp_path), num_classes=None))
    assert labels(images.data_root, num_classes=images.num_classes) == [1, 2]
