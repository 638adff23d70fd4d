"""Crops of the photographs that the packages ship, in colours of many kinds."""

from __future__ import annotations

import importlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

TOOLS = Path(__file__).parents[2] / 'tools'


def test_crops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip('skimage')
    monkeypatch.syspath_prepend(str(TOOLS / 'dataset_converters'))
    tool = importlib.import_module('shipped_photographs')
    chosen = {name: tool.FILES[name] for name in ('coffee', 'camera')}
    monkeypatch.setattr(tool, 'FILES', chosen)
    flags = ['--out-dir', str(tmp_path / 'a'), '--size', '16', '--number', '12']
    tool.main(flags)
    crops = sorted((tmp_path / 'a' / 'train').glob('*.png'))
    assert [path.stem[:-5] for path in crops] == ['camera'] * 4 + ['coffee'] * 8
    for path in crops:
        pixels = np.asarray(Image.open(path))
        assert pixels.shape == (16, 16, 3) and pixels.std() > 0
        assert (pixels[..., 0] != pixels[..., 1]).any()  # a grey one is tinted
    assert Image.open(tmp_path / 'a' / 'val' / 'chelsea.png').size == (451, 300)
    with pytest.raises(SystemExit, match='exists; remove it'):
        tool.main(flags)
    tool.FILES['camera'] = ('skimage', 'data/nowhere.png', 1)
    with pytest.raises(SystemExit, match='nowhere.png" is not there; install skimage'):
        tool.main(['--out-dir', str(tmp_path / 'b'), '--number', '3'])
    assert not list(tmp_path.glob('*b*'))


def test_every_photograph_has_a_licence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(TOOLS / 'dataset_converters'))
    tool = importlib.import_module('shipped_photographs')
    notice = (TOOLS.parent / 'NOTICE').read_text()
    for _, file, _ in [*tool.FILES.values(), (*tool.HELD_OUT[1:], 0)]:
        assert Path(file).name in notice
