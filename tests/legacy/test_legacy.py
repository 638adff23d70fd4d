"""Files that earlier versions have written are read, and runs of theirs go on.

What is compared exactly on every machine: codes, maps and token files, the numbers of
groups that were drawn, rates, and the state of all random generators after the resumed
epoch, which tells that as many numbers were drawn from the same place. Losses and
weights are sums of floats: their last bits depend on the processor and on torch. They
are compared to the bit where both are those of the maker, elsewhere to ``CLOSE``.
"""

from __future__ import annotations

import itertools
import lzma
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import runs
import torch
from mmengine.config import Config
from mmengine.runner import Runner

import mergevq_mm
from mergevq_mm.apis.token_file import pack, read_token_file
from mergevq_mm.utils.checkpoint_file import load_checkpoint_file
from mergevq_mm.utils.checkpoint_format import FORMAT, MARK

HERE = Path(__file__).resolve().parent
VERSIONS = sorted(path.parent.name for path in HERE.glob('*/expected.json'))
CLOSE = 1e-3  # relative, of losses on another machine
_COUNT = itertools.count()


@pytest.fixture(scope='module', params=VERSIONS)
def folder(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The files of a version where its runs had them, the checkpoints unpacked."""
    copy = tmp_path_factory.mktemp('legacy') / request.param
    shutil.copytree(HERE / request.param, copy)
    for name in runs.RUNS:
        path = copy / 'work' / name / 'epoch_1.pth'
        path.parent.mkdir(parents=True)
        path.write_bytes(lzma.decompress((copy / f'{name}.pth.xz').read_bytes()))
    before = os.getcwd()
    os.chdir(copy)  # paths of the runs are relative
    yield copy
    os.chdir(before)


@pytest.fixture
def expected(folder: Path) -> dict[str, Any]:
    return runs.read_expected(folder)


def test_files_are_small() -> None:
    files = [path for path in HERE.rglob('*') if path.is_file()]
    kept = [path for path in files if path.relative_to(HERE).parts[0] in VERSIONS]
    assert sum(path.stat().st_size for path in kept) < 200_000 * len(VERSIONS)


@pytest.mark.parametrize('name', runs.RUNS)
def test_a_run_goes_on(name: str, folder: Path, expected: dict[str, Any]) -> None:
    path = f'work/{name}/epoch_1.pth'
    content = load_checkpoint_file(path)
    assert 1 <= content[MARK]['format'] <= FORMAT
    cfg = Config({**content['run_config'], 'resume': True, 'load_from': path})
    cfg.experiment_name = f'legacy-{next(_COUNT)}'
    runner = Runner.from_cfg(cfg)
    runner.train()
    found, wanted = runs.last_epoch(runner), expected[name]['logged']
    assert found.keys() >= wanted.keys()
    same = runs.machine() == expected['machine']
    for term, values in wanted.items():
        exact = same or term in ('keep', 'lr') or term.endswith('.lr')
        close = pytest.approx(values, rel=CLOSE, abs=CLOSE)
        assert found[term] == (values if exact else close), term
    new = torch.load(f'work/{name}/epoch_2.pth', weights_only=True)
    assert runs.digest(new['rng_states']) == expected[name]['random']
    weight = expected[name]['weight']
    close = pytest.approx(weight, rel=CLOSE)
    assert runs.total_weight(runner) == (weight if same else close)


def test_a_published_folder_encodes_the_same(
    folder: Path, expected: dict[str, Any]
) -> None:
    encoder = mergevq_mm.EncodingInferencer('published', device='cpu')
    (result,) = encoder('images/val/a/0.png', keep=9)
    assert result['content'] == Path('tokens.mvq').read_bytes()


def test_a_token_file_is_read(folder: Path, expected: dict[str, Any]) -> None:
    wanted = expected['tokens']
    tokens = read_token_file('tokens.mvq')
    assert tokens.index.tolist() == wanted['index']
    assert tokens.group.tolist() == wanted['group']
    assert pack(tokens) == Path('tokens.mvq').read_bytes()
    decoder = mergevq_mm.DecodingInferencer('published', device='cpu')
    (result,) = decoder('tokens.mvq')
    pixels = np.array(wanted['pixels'], dtype=int)
    assert abs(result['image'].astype(int) - pixels).max() <= 1
