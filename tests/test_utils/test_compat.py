"""The measures for the installed stack: each does its work, and nothing elsewhere."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import subprocess
import sys
import types
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from ready_processes import run_tool

from mergevq_mm.utils.compat import (
    gloo,
    lending,
    missing,
    mmcv_ops,
    multimodal,
    numpy_names,
    scipy_sqrtm,
    torchvision_ops,
    watching,
)
from mergevq_mm.version import __version__

REPO = Path(__file__).resolve().parents[2]


def run_python(code: str, *paths: Path, **environ: str) -> str:
    """Run code in a fresh interpreter, from another working directory."""
    path = os.pathsep.join(map(str, (*paths, REPO)))
    result = subprocess.run(
        [sys.executable, '-W', 'ignore', '-c', code],
        capture_output=True,
        text=True,
        cwd='/',
        env={**os.environ, 'PYTHONPATH': path, **environ},
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def write_package(root: Path, name: str, code: str = '') -> Path:
    """Write a package, and those above it, that Python can import."""
    folder = root
    for part in name.split('.'):
        folder = folder / part
        folder.mkdir(parents=True, exist_ok=True)
        (folder / '__init__.py').touch()
    (folder / '__init__.py').write_text(code)
    return folder


@pytest.fixture
def packages(tmp_path, monkeypatch):
    """A folder on the path, whose modules are forgotten afterwards."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


# The package itself


def test_import_is_light_and_lazy():
    out = run_python(
        'import sys, mergevq_mm\n'
        'heavy = ["torch", "numpy", "torchvision", "mmengine", "mmpretrain"]\n'
        'print([m for m in heavy if m in sys.modules])\n'
        'print(mergevq_mm.__version__, mergevq_mm.registry.MODELS.scope)\n'
    )
    assert out.split('\n')[:2] == ['[]', f'{__version__} mergevq_mm']


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


STACK = ('mergevq_mm', 'torchvision', 'mmpretrain.models', 'mmagic.models')


@pytest.mark.slow
@pytest.mark.parametrize('first', range(1, 4))
def test_the_stack_imports_in_any_order(first):
    """As installed: the startup file that pip puts beside the package comes first.

    In the order of ``STACK`` itself it is imported by ``ready_processes``.
    """
    startup = REPO / 'mergevq_mm/utils/compat/startup.py'
    names = STACK[first:] + STACK[:first]
    code = (
        f'exec(open({str(startup)!r}).read())\nimport {", ".join(names)}\nprint("ok")'
    )
    assert run_python(code).strip().endswith('ok')


def test_startup_file_stays_in_the_list_of_finders(packages):
    """Taking it out would let another thread pass over the finder behind it."""
    startup = REPO / 'mergevq_mm/utils/compat/startup.py'
    out = run_python(
        'import sys\n'  # without that of the environment
        'names = [type(finder).__name__ for finder in sys.meta_path]\n'
        'if "FirstOfStack" in names:\n'
        '    del sys.meta_path[names.index("FirstOfStack")]\n'
        f'exec(open({str(startup)!r}).read())\n'
        'finders = iter(sys.meta_path)\n'
        'first = next(finders)\n'
        'behind = sys.meta_path[1]\n'
        'import torchvision\n'
        'print("mergevq_mm" in sys.modules, behind in finders)\n'
    )
    assert out.split() == ['True', 'True']


def test_startup_file_leaves_the_stack_to_itself_where_the_package_is_broken(packages):
    write_package(packages, 'mergevq_mm', 'raise RuntimeError("broken")')
    write_package(packages, 'mmcv', 'print("imported")')
    startup = REPO / 'mergevq_mm/utils/compat/startup.py'
    code = f'exec(open({str(startup)!r}).read())\nimport mmcv'
    assert run_python(code, packages).split() == ['imported']


# Waiting for an import


def test_actions_stand_around_the_code_of_a_module(packages):
    write_package(packages, 'waited_for', 'import sys; sys.seen.append("code")')
    sys.seen = seen = []
    try:
        watching.before_import('waited_for', lambda: seen.append('before'))
        watching.after_import('waited_for', lambda: seen.append('after'))
        assert importlib.util.find_spec('waited_for') is not None
        assert seen == []  # found, but not imported
        importlib.import_module('waited_for')
        assert seen == ['before', 'code', 'after']
        watching.after_import('waited_for', lambda: seen.append('late'))
        watching.before_import('waited_for', lambda: seen.append('never'))
        assert seen[3:] == ['late']
    finally:
        del sys.seen


def test_what_an_action_raises_is_raised_again_at_the_next_try(packages):
    write_package(packages, 'needs_more')

    def refuse():
        raise ModuleNotFoundError('install it')

    watching.before_import('needs_more', refuse)
    for _ in range(2):
        with pytest.raises(ModuleNotFoundError, match='install it'):
            importlib.import_module('needs_more')


def test_a_loader_of_several_modules_waits_for_one_of_them(packages, monkeypatch):
    """The loader of a zip file is one object for all modules in it."""
    with zipfile.ZipFile(packages / 'both.zip', 'w') as archive:
        archive.writestr('waited_in_zip.py', '')
        archive.writestr('beside_in_zip.py', '')
    monkeypatch.syspath_prepend(str(packages / 'both.zip'))
    seen = []
    watching.after_import('waited_in_zip', lambda: seen.append('after'))
    importlib.import_module('waited_in_zip')
    assert seen == ['after']
    importlib.import_module('beside_in_zip')
    assert seen == ['after']


def test_waiting_leaves_other_modules_alone(packages):
    write_package(packages, 'one.two')
    watching.after_import('one.three', lambda: pytest.fail('not imported'))
    assert importlib.import_module('one.two').__name__ == 'one.two'
    assert not watching.exists('one.three')
    assert not watching.exists('nothing.at_all')


# torchvision


def test_torchvision_transforms_work():
    from torchvision.transforms.v2.functional import horizontal_flip

    flipped = horizontal_flip(torch.arange(4.0).view(1, 1, 4))
    assert flipped.flatten().tolist() == [3.0, 2.0, 1.0, 0.0]


@pytest.mark.parametrize('name', ['_C.so', '_C.cpython-311-x86.so', '_C_stable.so'])
def test_torchvision_that_matches_is_left_alone(name, packages, monkeypatch):
    """Whatever its compiled part is called: from 0.29 on it is ``_C_stable.so``."""
    folder = write_package(packages, 'torchvision_like')
    (folder / name).touch()
    (folder / 'image.so').touch()
    compiled = torchvision_ops.compiled_parts
    monkeypatch.setattr(
        torchvision_ops, 'compiled_parts', lambda _: compiled('torchvision_like')
    )
    loaded = []
    monkeypatch.setattr(torch.ops, 'load_library', loaded.append, raising=False)
    monkeypatch.setattr(torchvision_ops, '_LIBRARY', None)
    assert torchvision_ops.declare_torchvision_ops() is False
    assert loaded == [str(folder / name)]
    assert torchvision_ops._LIBRARY is None


def test_torchvision_of_another_torch_gets_its_schemas():
    out = run_python(
        'import torch\n'
        'from mergevq_mm.utils.compat import torchvision_ops\n'
        'torchvision_ops.compiled_parts = lambda _: ["/no/such/_C.so"]\n'
        'print(torchvision_ops.declare_torchvision_ops())\n'
        'print(torchvision_ops.declare_torchvision_ops())\n'
        'print(torch.ops.torchvision.nms)\n'
    )
    assert out.split('\n')[:3] == ['True', 'True', 'torchvision.nms']


# mmcv


def test_mmcv_stub_raises_only_when_called():
    operator = mmcv_ops.MissingOps('mmcv._ext').roi_align_forward
    with pytest.raises(RuntimeError, match='mmcv.ops.roi_align_forward'):
        operator(1, 2)
    assert not hasattr(mmcv_ops.MissingOps('mmcv._ext'), '__wrapped__')


def test_mmcv_with_its_operators_gets_no_stub(packages, monkeypatch):
    for name in [m for m in sys.modules if m.split('.')[0] == 'mmcv']:
        monkeypatch.delitem(sys.modules, name)
    write_package(packages, 'mmcv._ext')
    assert mmcv_ops.stub_mmcv_ext() is False
    assert 'mmcv._ext' not in sys.modules


def test_mmcv_lite_gets_a_stub(packages, monkeypatch):
    for name in [m for m in sys.modules if m.split('.')[0] == 'mmcv']:
        monkeypatch.delitem(sys.modules, name)
    write_package(packages, 'mmcv')
    assert mmcv_ops.stub_mmcv_ext() is True
    assert importlib.import_module('mmcv._ext').__spec__.name == 'mmcv._ext'


# Packages that are missing


MISSING = """
import sys
from importlib.machinery import PathFinder
find = PathFinder.find_spec
hidden = {hidden!r}
def without(name, path=None, target=None):
    return None if name.split('.')[0] in hidden else find(name, path, target)
PathFinder.find_spec = without
import mergevq_mm
try:
    import {name}
except ModuleNotFoundError as error:
    print(error.name, '|', error)
"""


@pytest.mark.parametrize(
    'name, hidden, words',
    [
        ('mmpretrain', ['mmcv'], ['mmcv |', 'mmcv-lite==2.1.0', 'pip install']),
        ('mmagic.models', ['mmagic'], ['mmagic |', 'mergevq_mm[mmagic]', '--no-deps']),
        (
            'mmagic',
            ['diffusers', 'resize_right'],
            ['mmagic needs diffusers, resize_right: pip install "mergevq_mm[mmagic]"'],
        ),
    ],
)
def test_a_missing_package_is_named_with_its_command(name, hidden, words):
    out = run_python(MISSING.format(name=name, hidden=hidden))
    assert [word for word in words if word not in out] == []


def test_who_asks_whether_a_missing_package_is_there_gets_an_answer():
    out = run_python(
        MISSING.format(name='torch', hidden=['mmagic', 'mmcv'])
        + 'from importlib.util import find_spec\n'
        + 'print(find_spec("mmagic"), find_spec("mmcv"))\n'
        + 'from mergevq_mm.utils.compat import missing\n'
        + 'print("--no-deps" in missing.remedy("mmagic"))\n'
    )
    assert out.split() == ['None', 'None', 'True']


def test_base_config_of_a_missing_mmagic_says_how_to_install_it():
    out = run_python(
        MISSING.format(name='torch', hidden=['mmagic', 'pkg_resources'])
        + 'from importlib import metadata\n'
        + 'found = metadata.distribution\n'
        + 'def distribution(name):\n'
        + '    if name == "mmagic":\n'
        + '        raise metadata.PackageNotFoundError(name)\n'
        + '    return found(name)\n'
        + 'metadata.distribution = distribution\n'
        + 'from mmengine.config import Config\n'
        + 'from mmengine.utils import is_installed\n'
        + 'print("installed |", is_installed("mmagic"))\n'
        + 'try:\n'
        + f'    Config.fromfile({str(REPO / "configs/mergear_l_g+r.py")!r})\n'
        + 'except ModuleNotFoundError as error:\n'
        + '    print("config |", error)\n'
    )
    assert 'installed | False' in out
    assert 'config | ' in out and 'pip install --no-deps mmagic' in out


def test_config_that_names_types_of_a_missing_mmagic_is_refused_with_the_command():
    out = run_python(
        MISSING.format(name='torch', hidden=['mmagic'])
        + 'from mmengine.config import Config\n'
        + 'from mergevq_mm.utils.config_check import check_config\n'
        + 'try:\n'
        + '    model = dict(type="mmagic.PatchDiscriminator")\n'
        + '    check_config(Config(dict(model=model)))\n'
        + 'except ValueError as error:\n'
        + '    print(error)\n'
    )
    assert 'model.type="mmagic.PatchDiscriminator" cannot be found' in out
    assert 'pip install --no-deps mmagic' in out


def test_pkg_resources_without_setuptools():
    """mmengine's three functions work, and reload the stand-in as it does."""
    out = run_python(
        MISSING.format(name='torch', hidden=['pkg_resources', 'setuptools'])
        + 'from mmengine.utils import get_installed_path, is_installed\n'
        + 'import pkg_resources\n'
        + 'print(pkg_resources.__file__)\n'
        + 'print(is_installed("mmpretrain"), is_installed("no_such_package"))\n'
        + 'print(get_installed_path("mmpretrain"))\n'
        + 'print(get_installed_path("mmcv-lite"))\n'
        + 'from mmengine.config import Config\n'
        + 'cfg = "mmpretrain::_base_/default_runtime.py"\n'
        + 'from mmengine.hub import get_config\n'
        + 'print(get_config(cfg).default_scope)\n'
        + 'try:\n'
        + '    from pkg_resources import iter_entry_points\n'
        + 'except ImportError:\n'
        + '    print("as without it")\n'
    )
    lines = out.strip().split('\n')
    assert lines[0].endswith('pkg_resources_part.py')
    assert lines[1] == 'True False'
    assert lines[2].endswith('mmpretrain') and Path(lines[2]).is_dir()
    assert lines[3].endswith('mmcv') and Path(lines[3]).is_dir()
    assert lines[4:] == ['mmpretrain', 'as without it']


def test_old_namespace_packages_use_pkgutil_beside_the_stand_in(packages):
    idiom = (
        'try:\n'
        '    __import__("pkg_resources").declare_namespace(__name__)\n'
        'except ImportError:\n'
        '    __path__ = __import__("pkgutil").extend_path(__path__, __name__)\n'
    )
    write_package(packages, 'old_space.part', 'print("imported")')
    (packages / 'old_space/__init__.py').write_text(idiom)
    hidden = ['pkg_resources', 'setuptools']
    code = MISSING.format(name='torch', hidden=hidden) + 'import old_space.part\n'
    assert run_python(code, packages).split() == ['imported']


def test_pkg_resources_of_setuptools_is_left_alone(packages, monkeypatch):
    write_package(packages, 'pkg_resources', 'real = True')
    monkeypatch.delitem(sys.modules, 'pkg_resources', raising=False)
    missing.be_asked_last()
    assert importlib.import_module('pkg_resources').real is True


def test_stand_in_of_pkg_resources_tells_versions():
    from mergevq_mm.utils.compat import pkg_resources_part as part

    found = part.get_distribution('mmengine')
    assert found.version == importlib.metadata.version('mmengine')
    assert (Path(found.location) / 'mmengine').is_dir()
    assert found.has_metadata('METADATA') and 'Name:' in found.get_metadata('METADATA')
    with pytest.raises(FileNotFoundError, match='no metadata'):
        found.get_metadata('nothing.txt')
    with pytest.raises(part.DistributionNotFound):
        part.get_distribution('no_such_package')


def test_pytest_changes_the_path_beside_the_stand_in(monkeypatch, tmp_path):
    from mergevq_mm.utils.compat import pkg_resources_part

    monkeypatch.setitem(sys.modules, 'pkg_resources', pkg_resources_part)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert sys.path[0] == str(tmp_path)


# Names that were dropped


def test_a_module_is_lent_while_the_borrower_is_imported(packages):
    write_package(
        packages,
        'borrower',
        'import gone_package as gone\nfrom gone_package import Dropped\n',
    )
    lending.lend('gone_package', 'borrower')
    borrower = importlib.import_module('borrower')
    assert 'gone_package' not in sys.modules
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module('gone_package')
    assert isinstance(borrower.Dropped, type)
    for kind in (borrower.Dropped, borrower.gone.Other):
        with pytest.raises(ModuleNotFoundError, match='gone_package'):
            kind(1)


def test_what_is_lent_comes_back_from_a_borrower_that_fails(packages):
    code = 'import gone_module\nraise RuntimeError("of its own")'
    write_package(packages, 'broken_borrower', code)
    lending.lend('gone_module', 'broken_borrower')
    for _ in range(2):
        with pytest.raises(RuntimeError, match='of its own'):
            importlib.import_module('broken_borrower')
        assert 'gone_module' not in sys.modules


def test_a_module_that_is_there_is_not_lent(packages):
    write_package(packages, 'kept_package', 'class Kept: pass')
    write_package(packages, 'owner', 'from kept_package import Kept')
    lending.lend('kept_package', 'owner')
    assert importlib.import_module('owner').Kept().__class__.__name__ == 'Kept'
    assert sys.modules['kept_package'].__file__


def test_numpy_names(monkeypatch):
    fake = types.SimpleNamespace(__version__='2.1.0', bool_=np.bool_, in1d='there')
    monkeypatch.setitem(sys.modules, 'numpy', fake)
    assert numpy_names.restore_numpy_names() == ['bool8']
    assert fake.bool8 is np.bool_
    assert fake.in1d == 'there'
    assert numpy_names.restore_numpy_names() == []
    later = types.SimpleNamespace(__version__='2.4.0', bool_=np.bool_, isin=np.isin)
    monkeypatch.setitem(sys.modules, 'numpy', later)
    assert numpy_names.restore_numpy_names() == ['bool8', 'in1d']
    old = types.SimpleNamespace(__version__='1.26.4', bool_=np.bool_)
    monkeypatch.setitem(sys.modules, 'numpy', old)
    assert numpy_names.restore_numpy_names() == []


def test_retrieval_of_mmpretrain_counts():
    from mmpretrain.evaluation import RetrievalAveragePrecision, RetrievalRecall

    right = [[0, 1]]
    for topk, known in ((1, 0.0), (2, 100.0)):
        found = RetrievalRecall.calculate([[2, 0, 1]], right, topk, True, True)
        assert [float(value) for value in found] == [known]
    found = RetrievalAveragePrecision.calculate([[2, 0, 1]], right, 3, True, True)
    assert float(found) == pytest.approx(100 * (1 / 2 + 2 / 3) / 2)


@pytest.mark.parametrize('backend', ['cv2', 'pillow'])
@pytest.mark.parametrize('first', ['mmcv', 'mergevq_mm'])
def test_hue_turns_backwards(backend, first):
    # Red, turned by 63 of 256 steps to the left: between blue and magenta.
    code = f"""
import {first}
import mergevq_mm, mmcv, numpy as np
red = np.zeros((1, 2, 3), np.uint8)
red[..., 2] = 255
print(*mmcv.adjust_hue(red, -0.25, backend={backend!r})[0, 0])
there = mmcv.adjust_hue(red, 0.25, backend={backend!r})
print(*mmcv.adjust_hue(there, -0.25, backend={backend!r})[0, 0])
print(*mmcv.adjust_hue(red, 0.0, backend={backend!r})[0, 0])
"""
    left, back, same = (
        [int(value) for value in line.split()] for line in run_python(code).splitlines()
    )
    assert left[0] == 255 and 110 < left[2] < 150 and left[1] == 0
    assert np.abs(np.array(back) - [0, 0, 255]).max() <= 6
    assert same == [0, 0, 255]


@pytest.mark.parametrize('dropped', [True, False])
def test_matrix_root_as_the_fid_of_mmagic_calls_it(dropped, monkeypatch):
    import scipy.linalg

    old = types.SimpleNamespace(sqrtm='as it is')
    fid = types.SimpleNamespace(linalg=old)
    monkeypatch.setitem(sys.modules, 'mmagic.evaluation.metrics.fid', fid)
    matrix = np.array([[5.0, 4.0], [4.0, 5.0]])
    root = np.array([[2.0, 1.0], [1.0, 2.0]])
    new = (lambda A: root) if dropped else (lambda A, disp=True: root)
    monkeypatch.setattr(scipy.linalg, 'sqrtm', new)
    assert scipy_sqrtm.keep_disp_of_sqrtm() is dropped
    if dropped:
        found, _ = fid.linalg.sqrtm(matrix, disp=False)
        np.testing.assert_array_equal(found, root)
        np.testing.assert_array_equal(fid.linalg.sqrtm(matrix), root)
    else:
        assert fid.linalg is old


@pytest.mark.parametrize(
    'version, present, mmpretrain, left_out',
    [
        ('5.24.0', True, (1, 2, 0), True),
        ('4.52.4', True, (1, 2, 0), True),
        ('4.51.3', True, (1, 2, 0), False),
        ('5.0.0', False, (1, 2, 0), False),
        ('4.57.6', True, (1, 3, 6), False),
        ('5.0.0', True, (1, 3, 6), True),
        ('5.0rc1', True, (1, 2, 0), True),
    ],
)
def test_multimodal_part(version, present, mmpretrain, left_out, monkeypatch):
    dependency = types.SimpleNamespace(WITH_MULTIMODAL=present)
    monkeypatch.setitem(sys.modules, 'mmpretrain.utils.dependency', dependency)
    number = types.SimpleNamespace(version_info=mmpretrain)
    monkeypatch.setitem(sys.modules, 'mmpretrain.version', number)
    monkeypatch.setattr(importlib.metadata, 'version', lambda _: version)
    assert multimodal.leave_out_multimodal() is left_out
    assert dependency.WITH_MULTIMODAL is (present and not left_out)


# mmengine


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


def test_launchers_of_a_machine_with_an_accelerator_stay(monkeypatch):
    monkeypatch.setattr(gloo, 'has_accelerator', lambda: True)
    assert gloo.init_dist_without_cuda() is False


def test_two_gloo_ranks_train_without_cuda(tmp_path):
    """The start, the wrapper's config and DDP together: gradients are averaged."""
    if torch.cuda.is_available():
        pytest.skip('the measure is for machines without CUDA')
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
    result = run_tool(script, cwd=tmp_path, ranks=2)
    assert result.returncode == 0, result.stderr
