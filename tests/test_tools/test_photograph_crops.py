"""Crops of photographs: sizes, classes, and the one that is held out."""

from __future__ import annotations

import importlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

TOOLS = Path(__file__).parents[2] / 'tools'


def test_crops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    skimage = pytest.importorskip('skimage')
    monkeypatch.syspath_prepend(str(TOOLS / 'dataset_converters'))
    tool = importlib.import_module('photograph_crops')
    flags = ['--out-dir', str(tmp_path / 'a'), '--size', '16', '--number', '12']
    tool.main(flags)
    crops = sorted((tmp_path / 'a' / 'train').rglob('*.png'))
    assert len(crops) == 12
    assert {path.parent.name for path in crops}.isdisjoint({'cat'})
    for path in crops:
        pixels = np.asarray(Image.open(path))
        assert pixels.shape == (16, 16, 3) and pixels.std() >= tool.FLATTEST
    cat = Path(skimage.__file__).parent / 'data' / 'chelsea.png'
    held_out = np.asarray(Image.open(tmp_path / 'a' / 'held_out.png'))
    np.testing.assert_array_equal(held_out, np.asarray(Image.open(cat)))
    with pytest.raises(SystemExit, match='exists; remove it'):
        tool.main(flags)
    with pytest.raises(SystemExit, match='--hold-out dog is no photograph'):
        tool.main(['--out-dir', str(tmp_path / 'b'), '--hold-out', 'dog'])
