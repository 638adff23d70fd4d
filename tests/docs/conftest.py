"""A walk through the docs: minutes, run by ``bash tools/run_tests.sh --docs`` alone."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from doc_commands import REPO
from filelock import FileLock
from mmengine.runner import find_latest_checkpoint
from PIL import Image
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling


def pytest_ignore_collect(config: pytest.Config) -> bool | None:
    """Leave this folder out of a run that does not name it."""
    named = any(Path(str(argument)).name == 'docs' for argument in config.args)
    return None if named else True


class ByPage(LoadScopeScheduling):
    """A page stays in one process: its commands need each other's files."""

    def _split_scope(self, nodeid: str) -> str:
        return nodeid.partition('[')[2].partition(':')[0]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> ByPage:
    """Ours: pytest 9.2 takes the names from the groups of pytest-xdist 3.8."""
    return ByPage(config, log)


@pytest.fixture(scope='session')
def quickstart(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished quickstart: the one that ``MERGEVQ_QUICKSTART`` names, or its own.

    All processes of a run share it, and the digits that it writes into the checkout.
    """
    if there := os.environ.get('MERGEVQ_QUICKSTART'):
        return Path(there)
    base = tmp_path_factory.getbasetemp()  # of this process, inside that of the run
    if 'PYTEST_XDIST_WORKER' in os.environ:
        base = base.parent
    work_dir = base / 'quickstart'
    with FileLock(f'{work_dir}.lock'):
        if not (work_dir / 'summary.json').exists():
            command = ['tools/quickstart.py', '--short', '--work-dir', str(work_dir)]
            subprocess.run([sys.executable, *command], cwd=REPO, check=True)
    return work_dir


@pytest.fixture(scope='module')
def root(
    request: pytest.FixtureRequest,
    quickstart: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Path]:
    """A folder for one page, with all that a reader has after the quickstart."""
    root = tmp_path_factory.mktemp(request.param.stem)
    for name in ('configs', 'tools'):
        (root / name).symlink_to(REPO / name)
    (root / 'docs' / 'images').mkdir(parents=True)
    (root / 'data').mkdir()
    for name in ('mnist5k', 'weights'):
        (root / 'data' / name).symlink_to(REPO / 'data' / name)
    trained = root / 'work_dirs' / 'quickstart'
    shutil.copytree(quickstart, trained)
    named = trained / 'epoch_18.pth'  # by the configs of stage 2
    if not named.exists():
        named.symlink_to(find_latest_checkpoint(str(trained)))
    digits = sorted((REPO / 'data' / 'mnist5k' / 'val').glob('*/*'))[::100]
    (root / 'digits-to-try').mkdir()
    for path in digits:
        shutil.copy(path, root / 'digits-to-try' / path.name)
    import skimage

    cat = Path(skimage.__file__).parent / 'data' / 'chelsea.png'
    (root / 'photographs').mkdir()
    with Image.open(cat) as image:
        image.convert('RGB').save(root / 'cat.jpg')
        mask = Image.new('L', image.size)
        mask.paste(255, (0, image.height // 2, image.width, image.height))
        mask.save(root / 'mask.png')  # the lower half
        image.convert('RGB').save(root / 'photographs' / 'cat.png')
    yield root
    shutil.rmtree(root)
