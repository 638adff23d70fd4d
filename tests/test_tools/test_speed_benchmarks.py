"""The benchmarks of loading and of compile, bf16 and channels-last, at tiny sizes."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import tiny_mergevq as tiny
import torch
from mmengine.config import Config

FOLDER = Path(__file__).parents[2] / 'tools' / 'benchmarks'


@pytest.fixture(autouse=True)
def scripts() -> Iterator[None]:
    before = set(sys.modules)
    sys.path.insert(0, str(FOLDER))
    yield
    sys.path.remove(str(FOLDER))
    for script in FOLDER.glob('*.py'):
        if script.stem not in before:
            sys.modules.pop(script.stem, None)


def _rows(tool: ModuleType, path: Path, flags: list[str]) -> list[dict[str, Any]]:
    assert tool.main([*flags, '--json', str(path)]) == 0
    return json.loads(path.read_text())['rows']


def test_data_loading(tmp_path: Path) -> None:
    pytest.importorskip('skimage')
    tool = importlib.import_module('data_loading')
    flags = ['--images', '6', '--workers', '0', '--repeats', '1', '--batch-size', '4']
    rows = _rows(tool, tmp_path / 'a.json', [*flags, '--kinds', 'folder', 'tar'])
    works = ['read, warm', 'read, cold', 'load, 0 workers']
    assert [(r['work'], r['kind']) for r in rows] == [
        (work, kind) for work in works for kind in ('folder', 'tar')
    ]
    for row in rows:
        assert row['rate'] > 0
        assert row['ratio'] == 1 if row['kind'] == 'folder' else row['ratio'] > 0


def test_all_storages_give_the_same_bytes(tmp_path: Path) -> None:
    pytest.importorskip('skimage')
    tool = importlib.import_module('data_loading')
    tool.write_images(tmp_path, 4, 0)
    sources = tool.make_sources(tmp_path, ['folder', 'tar'])
    sizes = sum(path.stat().st_size for path in tmp_path.rglob('*.jpg'))
    for data in sources.values():
        assert tool.read_all(data, [3, 1, 0, 2]) == sizes
        assert tool.load_all(data, 0, 3, seed=0) == 4


def test_compile_precision(tmp_path: Path) -> None:
    pytest.importorskip('skimage')
    tool = importlib.import_module('compile_precision')
    config = tmp_path / 'tiny.py'
    Config(dict(model=tiny.model_cfg())).dump(str(config))
    flags = ['--config', str(config), '--batch-size', '2', '--repeats', '1']
    rows = _rows(
        tool, tmp_path / 'b.json', [*flags, '--options', 'channels-last', 'bf16']
    )
    names = ['float32', 'channels-last', 'bf16']
    assert [row['option'] for row in rows] == 2 * names
    assert all(row['ms'] > 0 and row['first'] > 0 for row in rows)
    plain, last, half = rows[:3]
    assert plain['speed'] == 1 and 'psnr' not in plain
    assert last['codes'] == 1 and last['psnr'] > 90
    assert 10 < half['psnr'] < last['psnr']  # bfloat16 does round


def test_attention_with_sizes(tmp_path: Path) -> None:
    tool = importlib.import_module('size_attention')
    flags = ['--shapes', '49x12', '--repeats', '1']
    rows = _rows(tool, tmp_path / 'a.json', flags)
    assert [row['way'] for row in rows] == ['none', 'mask', 'channel']
    assert rows[1]['operators'] == rows[0]['operators'] + 1  # the logarithm


@pytest.mark.parametrize('width', [64, 12])
def test_a_channel_of_sizes_is_the_mask(width: int) -> None:
    tool = importlib.import_module('size_attention')
    query, key, value = torch.randn(3, 2, 3, 33, width)
    size = torch.randint(1, 300, (2, 33)).float()
    found = tool.by_channel(query, key, value, size)
    expected = tool.by_mask(query, key, value, size)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    equal = tool.equal_sizes(query, key, value, size)
    assert (equal - expected).abs().max() > 1e-3
