"""What is installed for people who do not train, and that it is enough."""

from __future__ import annotations

import ast
import json
import os
import runpy
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_tier
from packaging.requirements import Requirement
from PIL import Image

from mergevq_mm.cli import main

REPO = Path(__file__).resolve().parents[2]


def _requirements(name: str) -> list[str]:
    """A list of setup.py by its name."""
    for node in ast.parse((REPO / 'setup.py').read_text()).body:
        if isinstance(node, ast.Assign) and node.targets[0].id == name:
            return ast.literal_eval(node.value)
    raise AssertionError(name)


def _importable(requirements: list[str]) -> list[str]:
    """Top-level modules of distributions and of all that they need."""
    todo, seen, names = [Requirement(text) for text in requirements], set(), set()
    while todo:
        wanted = todo.pop()
        for extra in ['', *wanted.extras]:
            marker = wanted.marker
            if marker is not None and not marker.evaluate({'extra': extra}):
                continue
            if (wanted.name.lower(), extra) in seen:
                continue
            seen.add((wanted.name.lower(), extra))
            try:
                found = metadata.distribution(wanted.name)
            except metadata.PackageNotFoundError:  # of CUDA, or optional
                continue
            names |= {Path(p.parts[0]).stem.partition('.')[0] for p in found.files}
            todo += [
                one
                for one in map(Requirement, found.requires or [])
                if one.marker is None or one.marker.evaluate({'extra': extra})
            ]
    return sorted(names)


def test_what_is_asked_for() -> None:
    names = {Requirement(text).name for text in _requirements('REQUIRES')}
    assert names == {'torch', 'numpy', 'einops', 'pillow', 'safetensors', 'timm'}
    stack = {'mmengine', 'mmcv', 'mmpretrain', 'mmagic', 'mmdet', 'mmseg', 'cv2'}
    assert not stack & set(_importable(_requirements('REQUIRES')))


def _run(folder: Path, *words: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, '-W', 'ignore', *words],
        capture_output=True,
        text=True,
        cwd=folder,
        env={**os.environ, 'PYTHONPATH': str(REPO)},
    )


@pytest.fixture(scope='module')
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A folder for either tier, with the same images and a config."""
    made = tuple(tmp_path_factory.mktemp(name) for name in ('small', 'whole'))
    rng = np.random.default_rng(0)
    pictures = {
        name: Image.fromarray(rng.integers(0, 256, size, dtype=np.uint8))
        for name, size in {'a': (28, 28), 'b': (90, 70, 3)}.items()
    }
    for folder in made:
        (folder / 'images').mkdir()
        for name, picture in pictures.items():
            picture.save(folder / 'images' / f'{name}.png')
        mask = np.zeros((28, 28), dtype=np.uint8)
        mask[14:] = 255
        Image.fromarray(mask).save(folder / 'mask.png')
        (folder / 'config.py').write_text("model = dict(type='mergevq_mm.MergeVQ')\n")
    return made


@pytest.fixture(scope='module')
def told(folders: tuple[Path, Path]) -> dict[str, Any]:
    """What the small tier says of its work."""
    lists = [_importable(_requirements(name)) for name in ('REQUIRES', 'WEB')]
    script = str(Path(small_tier.__file__))
    result = _run(folders[0], script, *map(json.dumps, lists))
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1])


@pytest.mark.slow
def test_small_tier_is_enough(told: dict[str, Any]) -> None:
    assert told['light'] == []  # importing the package loads none of them
    assert told['strangers'] == told['strangers of the page'] == []
    assert told['page'] == 'Blocks'


@pytest.mark.slow
@pytest.mark.parametrize('code', [*small_tier.REFUSED, *small_tier.NEEDING])
def test_what_needs_the_stack_names_the_extra(told: dict[str, Any], code: str) -> None:
    sentence = told[code]
    assert 'pip install "mergevq_mm[train]"' in sentence and '\n' not in sentence
    if code in small_tier.REFUSED:
        assert sentence.startswith('error: ') and '--debug' not in sentence


@pytest.mark.slow
def test_both_tiers_write_the_same(
    told: dict[str, Any], folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    small, whole = folders
    monkeypatch.chdir(whole)
    for command in small_tier.COMMANDS:
        main(command.split())
    files = sorted(path.relative_to(whole) for path in whole.rglob('*.*'))
    assert files == sorted(path.relative_to(small) for path in small.rglob('*.*'))
    assert len(files) > 25
    for file in files:
        if file.suffix == '.npz':
            found, wanted = (np.load(root / file) for root in folders)
            assert found.files == wanted.files
            assert all((found[name] == wanted[name]).all() for name in wanted)
        elif file.name == 'config.py':
            found, wanted = (runpy.run_path(str(root / file)) for root in folders)
            assert found['model'] == wanted['model']
        elif (whole / file).is_file():
            assert (small / file).read_bytes() == (whole / file).read_bytes(), file


# What only training, its configs and its plots use; and transformers.
TRAINING = {
    'datasets',
    'engine',
    'evaluation/metrics',
    'huggingface',
    'utils/atomic_backend.py',
    'utils/background.py',
    'utils/compat/pkg_resources_part.py',
    'utils/config.py',
    'utils/config_check.py',
    'utils/config_options.py',
    'utils/schedule_length.py',
    'utils/weight_selection.py',
    'visualization/backends.py',
    'visualization/cache.py',
    'visualization/code_usage.py',
    'visualization/curves.py',
    'visualization/plots.py',
}


def _imports(body: list[ast.stmt]) -> set[str]:
    """Packages that a file imports as it is loaded, without its own."""
    found = set()
    for node in body:
        if isinstance(node, ast.Import):
            found |= {alias.name.partition('.')[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.add(node.module.partition('.')[0])
        elif isinstance(node, ast.Try):
            found |= _imports(node.body)
    return found - {'mergevq_mm'}


def test_files_import_no_more_than_is_asked_for() -> None:
    allowed = {'torch', 'triton', 'numpy', 'einops', 'PIL', 'safetensors', 'timm'}
    allowed |= sys.stdlib_module_names  # torch brings triton where there is one
    package, found = REPO / 'mergevq_mm', {}
    for path in sorted(package.rglob('*.py')):
        name = path.relative_to(package).as_posix()
        strange = _imports(ast.parse(path.read_text('utf-8')).body) - allowed
        trains = any(name == one or name.startswith(f'{one}/') for one in TRAINING)
        if strange and not trains and not name.startswith('.mim/'):
            found[name] = strange
    assert found == {}
