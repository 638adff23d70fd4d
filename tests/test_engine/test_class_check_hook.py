"""Training and validation have the same classes, or the run does not begin."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from mmpretrain.datasets import CustomDataset
from PIL import Image
from torch.utils.data import Dataset, Subset

from mergevq_mm.datasets import ImageFolder
from mergevq_mm.engine.hooks import ClassCheckHook


def make(root: Path, **splits: str) -> Path:
    for split, names in splits.items():
        for name in names:
            (root / split / name).mkdir(parents=True)
            picture = Image.fromarray(np.zeros((4, 4, 3), np.uint8))
            picture.save(root / split / name / '0.png')
    return root


def check(train: Dataset, *val: Dataset) -> None:
    loaders = [SimpleNamespace(dataset=dataset) for dataset in val]
    loop = SimpleNamespace(dataloader=loaders[0]) if len(val) == 1 else None
    if len(val) > 1:  # mmagic's
        loop = SimpleNamespace(dataloader=loaders[0], dataloaders=loaders)
    loader = SimpleNamespace(dataset=train)
    ClassCheckHook().before_train(
        SimpleNamespace(train_dataloader=loader, val_loop=loop)
    )


def test_data_sets_that_do_not_know_of_each_other(tmp_path: Path) -> None:
    make(tmp_path, train='abc', val='ac')
    make(tmp_path / 'other', val='ac')
    train, val = (
        ImageFolder(str(tmp_path), split=split, pipeline=[])
        for split in ('train', 'val')
    )
    check(train, val)
    check(train)  # no validation
    elsewhere = ImageFolder(str(tmp_path / 'other'), split='val', pipeline=[])
    theirs = CustomDataset(str(tmp_path), data_prefix='val', pipeline=[])
    for wrong in (elsewhere, theirs, Subset(theirs, [0])):
        with pytest.raises(ValueError, match="class 1 is 'b' in train.* 'c' in val"):
            check(train, wrong)
        with pytest.raises(ValueError, match="class 1 is 'b' in train.* 'c' in val"):
            check(train, val, wrong)
    named = dict(metainfo=dict(classes=list('abc')), pipeline=[])
    check(train, ImageFolder(str(tmp_path / 'other'), split='val', **named))


def test_names_that_cannot_be_compared() -> None:
    codes = SimpleNamespace(metainfo=dict(classes=('0', '1', '2')))
    check(codes, SimpleNamespace(metainfo=dict(classes=('ant', 'bee'))))
    check(codes, SimpleNamespace(metainfo={}))
    check([], codes)
