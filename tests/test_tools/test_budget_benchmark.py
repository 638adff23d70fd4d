"""The measurement of budgets: its numbers by hand, and the whole of it in small."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_mergevq import build_model, run_cfg, write_images

FOLDER = Path(__file__).parents[2] / 'tools' / 'benchmarks'


@pytest.fixture(scope='module')
def tool() -> Iterator[ModuleType]:
    before = set(sys.modules)
    sys.path.insert(0, str(FOLDER))
    yield importlib.import_module('budget')
    sys.path.remove(str(FOLDER))
    for script in FOLDER.glob('*.py'):  # `common` is nobody's name but here
        if script.stem not in before:
            sys.modules.pop(script.stem, None)


def test_numbers_by_hand(tool: ModuleType) -> None:
    pixels = torch.zeros(2, 3, 8, 8)
    tables = [
        tool.Tables(pixels, np.array([[10, 20.0], [30, 40]]), np.zeros((2, 2))),
        tool.Tables(pixels[:1], np.array([[10, 10.0]]), np.zeros((1, 2))),
    ]
    found = tool.numbers(tables, [4, 8], [[8, 4], [4]])
    assert found['tokens'] == pytest.approx(16 / 3)
    assert (found['least'], found['most']) == (4, 8)
    assert found['psnr'] == pytest.approx(20)  # of 20, 30 and 10
    errors = (0.01 + 0.001 + 0.1) / 3
    assert found['overall'] == pytest.approx(-10 * np.log10(errors))
    # Above 10 dB they cost 8, 4 and 4 (which does not get any better), above 30 more.
    assert tool.threshold('psnr', 5.4, tables, [4, 8]) == pytest.approx(30, abs=1e-6)
    assert tool.threshold('psnr', 4, tables, [4, 8]) == pytest.approx(10, abs=1e-6)


def test_crowdedness_is_one_number_of_an_image(tool: ModuleType) -> None:
    pixels = torch.zeros(1, 3, 8, 8)
    mean, slope = np.array([10.0, 20, 25]), np.array([1.0, 2, 2])
    rows = [mean + slope * x for x in (-3, 1, 2)]  # of rank 1 beyond their mean
    tables = [tool.Tables(pixels, row[None], row[None] * 0) for row in rows]
    for found, row in zip(tool.crowdedness(tables), rows, strict=True):
        np.testing.assert_allclose(found.psnr, row[None])


def test_measures_all_ways(
    tool: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    write_images(tmp_path / 'images', split='val', per_class=3)
    run_cfg(tmp_path / 'images', tmp_path / 'run').dump(tmp_path / 'c.py')
    torch.manual_seed(0)
    torch.save({'state_dict': build_model().state_dict()}, tmp_path / 'w.pth')
    files = {name: str(tmp_path / name) for name in ('c.py', 'w.pth', 'o.json')}
    flags = ['--mean', '7', '8', '--batch-size', '4', '--repeats', '1']
    flags += ['--json', files['o.json'], '--png', str(tmp_path / 'o.png')]
    flags += ['--device', 'cpu', '--number', '5']
    assert tool.main([files['c.py'], files['w.pth'], *flags]) == 0
    told = json.loads(Path(files['o.json']).read_text())
    rows = told['rows']
    assert len(rows) == 2 * 8 + 1 and told['complete'] and len(told['times']) == 4
    for mean, part in ((7, rows[:8]), (8, rows[8:16])):
        ways = [row['way'].split(' ')[0] for row in part]
        assert ways == ['one', 'best', *['mean,'] * 4, 'psnr', 'similarity']
        assert part[1]['psnr'] >= part[0]['psnr'] and part[1]['most'] <= mean
        assert part[2]['way'] == 'mean, crowdedness'
        assert part[2]['psnr'] <= part[3]['psnr'] + 1e-4
        del part[1:3]
        assert part[0]['tokens'] == mean == part[0]['most']
        assert all(row['tokens'] <= mean for row in part)
        assert part[1]['way'] == 'mean, psnr' and part[2]['way'] == 'mean, error'
        assert part[1]['psnr'] >= max(row['psnr'] for row in (part[0], part[3])) - 1e-4
    assert rows[-1]['tokens'] == 16 and 'ms an image' in capsys.readouterr().out
    assert Image.open(tmp_path / 'o.png').size[0] > 300
