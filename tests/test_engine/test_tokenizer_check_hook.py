"""Codes and images that are not for a generator are refused before the first step."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from tiny_generator import GRID, build
from torch.utils.data import Subset

from mergevq_mm.engine.first_step import TrainingRefused
from mergevq_mm.engine.hooks import TokenizerCheckHook, tokenizer_check_hook

FITS = dict(
    classes=('a', 'b', 'c'),
    fingerprint='a' * 64,
    grid=list(GRID),
    bits=6,
    split=(2, 4),
    keeps=(4, 9, 12),
)


class Data(list):
    """A data set that says something of itself."""

    def __init__(self, **metainfo: Any) -> None:
        super().__init__([0, 1])
        self.metainfo = metainfo


def check(wrap: bool = False, **metainfo: Any) -> None:
    model = build(num_classes=3, keep=dict(target=9, candidates=[4, 9]))
    data = Data(**metainfo)
    loader = SimpleNamespace(dataset=Subset(data, [0]) if wrap else data)
    TokenizerCheckHook().before_train(
        SimpleNamespace(model=model, train_dataloader=loader)
    )


def test_what_fits_passes() -> None:
    check(**FITS)
    check(wrap=True, **FITS)
    check()  # images
    check(classes=None)
    check(classes=['x', 'y', 'z'])


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (dict(classes=('a', 'b')), r'has 2 classes, but model.num_classes=3; set'),
        (dict(classes='abcd'), r'has 4 classes, but model.num_classes=3'),
        (dict(grid=(2, 2)), r'grid=\(2, 2\), but model.tokenizer has grid='),
        (dict(bits=18), r'bits=18, but model.tokenizer has bits=6'),
        (dict(split=(3, 3)), r'split=\(3, 3\), but model.tokenizer has split=\(2, 4\)'),
        (dict(keeps=(9, 12)), r'K=\[4\], of which .* only of K=\[9, 12\]'),
        (dict(fingerprint='b' * 64), 'codes of the tokenizer bbbbbbbbbbbb…'),
    ],
)
@pytest.mark.parametrize('wrap', [False, True])
def test_what_does_not_fit_is_refused(change: dict, message: str, wrap: bool) -> None:
    with pytest.raises(TrainingRefused, match=message):
        check(wrap, **{**FITS, **change})


def test_images_with_a_keep_of_their_own() -> None:
    """A batch of them needs one K, and the generator all that they may have."""
    ragged = Data(**{**FITS, 'keeps': (4, 9)}, ragged=True)
    loader = SimpleNamespace(dataset=ragged)
    model = build(num_classes=3, keep=dict(target=9, candidates=[4, 9]))
    runner = SimpleNamespace(model=model, train_dataloader=loader)
    with pytest.raises(TrainingRefused, match='have a K each, .*; set train_dataload'):
        TokenizerCheckHook().before_train(runner)
    loader.batch_sampler = SimpleNamespace(same_keep=True)
    TokenizerCheckHook().before_train(runner)
    with pytest.raises(TrainingRefused, match=r'of K=\[12\], which model.keep does'):
        check(**{**FITS, 'ragged': True})


def test_images_of_other_classes() -> None:
    """Images that are encoded on the fly have classes, too."""
    with pytest.raises(TrainingRefused, match='has 2 classes, but model.num_classes=3'):
        check(classes=('a', 'b'))


def test_classes_without_a_sample_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Codes of two folders may bear the names of a thousand classes."""
    told: list[str] = []
    monkeypatch.setattr(
        tokenizer_check_hook, 'print_log', lambda text, **kwargs: told.append(text)
    )
    monkeypatch.setattr(Data, 'present_classes', lambda self: [0, 1, 2], raising=False)
    check(**FITS)
    assert told == []
    monkeypatch.setattr(Data, 'present_classes', lambda self: [1])
    check(**FITS)
    assert told == [
        'train_dataloader.dataset has samples of 1 of the 3 classes: 0, 2 will not be '
        'learnt, and yet be drawn if asked for.'
    ]
