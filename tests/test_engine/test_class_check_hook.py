"""Training and validation have the same classes, or the run does not begin."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from mmpretrain.datasets import CustomDataset
from PIL import Image
from torch.utils.data import Dataset, Subset

from mergevq_mm.datasets import ImageFolder
from mergevq_mm.engine.first_step import TrainingRefused
from mergevq_mm.engine.hooks import ClassCheckHook, class_check_hook


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
        with pytest.raises(
            TrainingRefused, match="class 1 is 'b' in train.* 'c' in val"
        ):
            check(train, wrong)
        with pytest.raises(
            TrainingRefused, match="class 1 is 'b' in train.* 'c' in val"
        ):
            check(train, val, wrong)
    named = dict(metainfo=dict(classes=list('abc')), pipeline=[])
    check(train, ImageFolder(str(tmp_path / 'other'), split='val', **named))


def test_a_test_is_compared_with_its_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path, val='ac')  # without the training images that tell the numbers
    told: list[str] = []
    monkeypatch.setattr(
        class_check_hook, 'print_log', lambda text, **kwargs: told.append(text)
    )

    def test(classes: str, **kwargs: Any) -> int:
        data = ImageFolder(str(tmp_path), split='val', pipeline=[], **kwargs)
        loop = SimpleNamespace(dataloader=SimpleNamespace(dataset=data))
        hook, runner = ClassCheckHook(), SimpleNamespace(test_loop=loop)
        meta = dict(dataset_meta=dict(classes=list(classes))) if classes else {}
        hook.after_load_checkpoint(runner, dict(meta=meta))
        hook.before_test(runner)
        return len(told)

    assert test('ac') == test('acd') == test('xy') == test('') == 0
    assert test('abc', metainfo=dict(classes=list('abc'))) == 0
    assert test('abc') == 1
    assert told[0].startswith(
        "class 1 is 'b' in the training and 'c' in test_dataloader.dataset; metrics of "
        'labels are wrong: '
    )


def test_names_that_cannot_be_compared() -> None:
    codes = SimpleNamespace(metainfo=dict(classes=('0', '1', '2')))
    check(codes, SimpleNamespace(metainfo=dict(classes=('ant', 'bee'))))
    check(codes, SimpleNamespace(metainfo={}))
    check([], codes)
