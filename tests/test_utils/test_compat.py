"""The five workarounds: each does its work, and nothing where it is not needed."""

from __future__ import annotations

import os
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch

from mergevq_mm.utils import compat

REPO = Path(__file__).resolve().parents[2]


def run_python(code: str, **environ: str) -> str:
    """Run code in a fresh interpreter, from another working directory."""
    result = subprocess.run(
        [sys.executable, '-c', code],
        capture_output=True,
        text=True,
        cwd='/',
        env={**os.environ, 'PYTHONPATH': str(REPO), **environ},
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_import_is_light_and_lazy():
    out = run_python(
        'import sys, mergevq_mm\n'
        'heavy = ["torchvision", "mmpretrain", "mmagic", "mmengine.runner", "timm"]\n'
        'print([m for m in heavy if m in sys.modules])\n'
        'print(mergevq_mm.__version__, mergevq_mm.registry.MODELS.scope)\n'
    )
    assert out.split('\n')[:2] == ['[]', '0.1.0 mergevq_mm']


def test_registry_is_found_from_mmengine_root():
    out = run_python(
        'import mergevq_mm\n'
        'from mmengine.registry import HOOKS\n'
        'print(HOOKS.build(dict(type="mergevq_mm.RunStateHook")).priority)\n'
    )
    assert out.strip().endswith('VERY_HIGH')


def test_unknown_attribute_raises():
    import mergevq_mm

    with pytest.raises(AttributeError, match='no attribute'):
        _ = mergevq_mm.nothing
    assert 'models' in dir(mergevq_mm)


def test_torchvision_transforms_work():
    from torchvision.transforms.v2.functional import horizontal_flip

    flipped = horizontal_flip(torch.arange(4.0).view(1, 1, 4))
    assert flipped.flatten().tolist() == [3.0, 2.0, 1.0, 0.0]
    # Imported by now, so that the workaround has nothing left to do.
    assert compat.declare_torchvision_ops() is False


def test_torchvision_that_matches_is_left_alone(monkeypatch, tmp_path):
    loaded = []
    monkeypatch.delitem(sys.modules, 'torchvision', raising=False)
    monkeypatch.setattr(compat, '_package_files', lambda *_: [tmp_path / '_C.so'])
    monkeypatch.setattr(torch.ops, 'load_library', loaded.append, raising=False)
    assert compat.declare_torchvision_ops() is False
    assert loaded == [str(tmp_path / '_C.so')]


def test_mmcv_stub_raises_only_when_called(monkeypatch):
    stub = compat._MissingOps('mmcv._ext')
    operator = stub.roi_align_forward
    with pytest.raises(RuntimeError, match='mmcv.ops.roi_align_forward'):
        operator(1, 2)
    assert not hasattr(stub, '__wrapped__')
    # With compiled operators there is no stub.
    monkeypatch.delitem(sys.modules, 'mmcv._ext', raising=False)
    monkeypatch.setattr(compat, '_package_files', lambda *_: [Path('_ext.so')])
    assert compat.stub_mmcv_ext() is False
    assert 'mmcv._ext' not in sys.modules


def test_numpy_bool8(monkeypatch):
    fake = types.SimpleNamespace(__version__='2.1.0', bool_=np.bool_)
    monkeypatch.setattr(compat, 'np', fake)
    assert compat.restore_numpy_bool8() is True
    assert fake.bool8 is np.bool_
    assert compat.restore_numpy_bool8() is False
    old = types.SimpleNamespace(__version__='1.26.4', bool_=np.bool_)
    monkeypatch.setattr(compat, 'np', old)
    assert compat.restore_numpy_bool8() is False


@pytest.mark.parametrize('package_first', [True, False])
def test_loaders_are_installed_in_either_order(package_first):
    imports = ['import mergevq_mm', 'import mmengine.runner']
    code = '\n'.join(imports if package_first else reversed(imports))
    out = run_python(
        f'{code}\n'
        'from mmengine.runner import CheckpointLoader, find_latest_checkpoint, runner\n'
        'print(CheckpointLoader._schemes[""].__module__)\n'
        'print(CheckpointLoader._schemes["https://"].__module__)\n'
        'print(find_latest_checkpoint.__module__)\n'
        'print(runner.find_latest_checkpoint.__module__)\n'
    )
    assert out.split() == ['mergevq_mm.utils.checkpoint_file'] * 4


def test_two_gloo_ranks_train_without_cuda(tmp_path):
    """The launcher, the wrapper's config and DDP together: gradients are averaged."""
    if torch.cuda.is_available():
        pytest.skip('the workaround is for machines without CUDA')
    script = tmp_path / 'ranks.py'
    script.write_text(
        'import mergevq_mm, mmengine.model, torch\n'
        'from mmengine.config import Config\n'
        'from mmengine.dist import get_backend, get_rank, init_dist\n'
        'from mmengine.registry import MODEL_WRAPPERS\n'
        'from mergevq_mm.utils.config import adapt_to_device\n'
        'from mergevq_mm.utils.distributed import end_process_group\n'
        'init_dist("pytorch", backend="nccl")\n'
        'assert get_backend() == "gloo"\n'
        'cfg = Config(dict(launcher="pytorch"))\n'
        'adapt_to_device(cfg)\n'
        'assert cfg.env_cfg.dist_cfg.backend == "gloo"\n'
        'net = torch.nn.Linear(1, 1, bias=False)\n'
        'net = MODEL_WRAPPERS.build(dict(cfg.model_wrapper_cfg, module=net))\n'
        'net(torch.full((1, 1), 1.0 + get_rank())).sum().backward()\n'
        'assert net.module.weight.grad.item() == 1.5\n'
        'del net\n'  # the wrapper keeps the group's threads alive
        'end_process_group()\n'
    )
    command = [sys.executable, '-m', 'torch.distributed.run', '--standalone']
    result = subprocess.run(
        [*command, '--nproc_per_node=2', str(script)],
        capture_output=True,
        text=True,
        env={**os.environ, 'PYTHONPATH': str(REPO), 'OMP_NUM_THREADS': '1'},
    )
    assert result.returncode == 0, result.stderr
