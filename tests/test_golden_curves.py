"""Losses of fifty steps of each model are those that stand in the repository."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
import torch
from mmengine.logging import MMLogger

SCRIPT = Path(__file__).parents[1] / 'tools' / 'golden_curves.py'
NAMES = ['G', 'G+R', 'R', 'MergeAR', 'RandAR']


@pytest.fixture(scope='module')
def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location('golden_curves', SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    MMLogger.get_instance('mmengine', log_level='WARNING')
    return module


@pytest.mark.parametrize('name', NAMES)
def test_curve(tool: ModuleType, name: str) -> None:
    """To the bit on the machine of the file, in float64 elsewhere."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        note = tool.check(name, tool.read())
    finally:
        torch.set_num_threads(threads)
    assert note is None, (
        f'{name}: {note}\nIf that is meant: python tools/golden_curves.py --update, '
        'and say why in the commit.'
    )


@pytest.mark.gpu
@pytest.mark.parametrize('name', NAMES)
def test_curve_on_a_gpu(tool: ModuleType, name: str) -> None:
    assert tool.check(name, tool.read(), 'cuda') is None


def test_all_curves_fall(tool: ModuleType) -> None:
    golden = tool.read()
    assert list(tool.CURVES) == NAMES
    for dtype in ('float32', 'float64'):
        assert list(golden[dtype]) == NAMES
        for name, curve in golden[dtype].items():
            assert all(len(values) == 50 for values in curve.values())
            values = curve['loss']
            assert sum(values[-4:]) < sum(values[:4]), name


def test_what_counts_as_a_difference(tool: ModuleType) -> None:
    expected = {'loss': [2.0, 4.0, 3.0]}
    assert tool.compare(expected, expected, 0.0) is None
    near = {'loss': [2.0, 4.0 + 2e-6, 3.0]}
    assert tool.compare(near, expected, 1e-6) is None
    note = tool.compare(near, expected, 0.0)
    assert note.startswith('loss of step 1 is 4.000002 in the place of 4;')
    far = {'loss': [2.0, 4.0, 3.0 + 1e-5]}
    assert tool.compare(far, expected, 1e-6).startswith('loss of step 2 is 3.00001')
    assert 'step 0 is nan' in tool.compare({'loss': [float('nan')] * 3}, expected, 1.0)
    assert '2 steps' in tool.compare({'loss': [2.0, 4.0]}, expected, 1.0)
    assert "['loss_b']" in tool.compare({'loss_b': [2.0]}, expected, 1.0)


def test_another_machine_is_compared_in_float64(
    tool: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bits are asked for where torch, instructions, CPU and switches agree."""
    asked = []

    def curve(name: str, dtype: str, device: str) -> dict:
        asked.append((dtype, device))
        return {'loss': [1.0 + 1e-9]}

    monkeypatch.setattr(tool, 'curve', curve)
    values = {'G': {'loss': [1.0]}}
    golden = {'machine': tool.machine(), 'float32': values, 'float64': values}
    assert tool.check('G', golden) is not None
    assert tool.check('G', golden, 'cuda') is None
    for switch in ('ATEN_CPU_CAPABILITY', 'MKL_CBWR', 'ONEDNN_MAX_CPU_ISA'):
        with monkeypatch.context() as patch:
            patch.setenv(switch, 'AVX2')
            assert tool.check('G', golden) is None
    golden['machine'] = {**golden['machine'], 'torch': '1.0'}
    assert tool.check('G', golden) is None
    both = [('float64', device) for device in ('cuda', 'cpu', 'cpu', 'cpu', 'cpu')]
    assert asked == [('float32', 'cpu'), *both]
