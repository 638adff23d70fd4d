"""The runner and the plain loop that its cost is measured against learn the same."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import pytest
from tiny_mergevq import run_cfg, write_images

FOLDER = Path(__file__).parents[2] / 'tools' / 'benchmarks'


def test_equal_losses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))
    tool = importlib.import_module('tax')
    root = write_images(tmp_path / 'images', per_class=4)
    cfg = run_cfg(
        root,
        tmp_path / 'unused',
        optim_wrapper__generator__accumulative_counts=1,
        optim_wrapper__discriminator__accumulative_counts=1,
    )
    path, out = tmp_path / 'tiny.py', tmp_path / 'tax.json'
    cfg.dump(str(path))
    flags = ['--steps', '3', '--memory-steps', '1', '--device', 'cpu']
    assert tool.main([str(path), *flags, '--json', str(out)]) == 0
    found = json.loads(out.read_text())
    assert [row['way'] for row in found['rows']] == ['runner', 'plain']
    assert found['apart'] < 5e-6  # five decimals, over two epochs
    assert found['stop'] > 0 and found['size'] > 1000
    assert all(row['wall'] > 0 and row['peak'] > 100 for row in found['rows'])
    sys.modules.pop('tax')
