"""SIGKILL at every step of a save and at random moments: the run goes on, exactly."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from processes import fork, same_content, steps, toy, wait

from mergevq_mm.utils import atomic_backend, fileio
from mergevq_mm.utils.checkpoint_file import find_latest_checkpoint

EPOCH, SAVES = 4, 3  # iterations of an epoch; epochs of the short run
POINTS = 26  # file operations of the short run, and one more


class DyingFile:
    """A file whose ``write`` may be cut in the middle."""

    def __init__(self, file: Any, tick: Callable[[], None]) -> None:
        self.file = file
        self.tick = tick

    def __enter__(self) -> DyingFile:
        return self

    def __exit__(self, *error: object) -> None:
        self.file.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)

    def write(self, content: bytes) -> None:
        self.file.write(content[: len(content) // 2])
        self.file.flush()
        self.tick()
        self.file.write(content[len(content) // 2 :])


def die_at(point: int, count: list[int]) -> None:
    """Let this process be killed at its n-th operation on a file of a checkpoint."""

    def tick() -> None:
        count[0] += 1
        if count[0] == point:
            os.kill(os.getpid(), signal.SIGKILL)

    def before(function: Callable) -> Callable:
        def call(*args: Any) -> Any:
            tick()
            return function(*args)

        return call

    names = {name: getattr(os, name) for name in ('fsync', 'replace', 'remove')}
    others = {name: value for name, value in vars(os).items() if name not in names}
    names = {name: before(function) for name, function in names.items()}
    # What these modules see of it.
    fileio.os = atomic_backend.os = SimpleNamespace(**others, **names)
    fileio.open = lambda *args: DyingFile(open(*args), tick)


@pytest.fixture(scope='module')
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The short run without a fault; it counts its file operations."""
    folder = tmp_path_factory.mktemp('whole')
    count = [0]

    def run() -> None:
        die_at(-1, count)
        toy(folder, SAVES)
        (folder / 'count').write_text(str(count[0]))

    assert wait(fork(run, folder / 'log.txt')) == 0, (folder / 'log.txt').read_text()
    return folder


def test_all_points_are_covered(whole: Path) -> None:
    assert int((whole / 'count').read_text()) == POINTS - 1


@pytest.mark.parametrize('point', range(1, POINTS))
def test_killed_within_a_save(whole: Path, tmp_path: Path, point: int) -> None:
    def run() -> None:
        die_at(point, [0])
        toy(tmp_path, SAVES)

    log = tmp_path / 'log.txt'
    assert wait(fork(run, log)) == -signal.SIGKILL, log.read_text()
    done = steps(tmp_path)
    latest = find_latest_checkpoint(tmp_path)
    saved = torch.load(latest, weights_only=True)['meta']['iter'] if latest else 0
    assert done[-1] - saved <= 2 * EPOCH  # a file is written while the next is trained
    resume = fork(lambda: toy(tmp_path, SAVES, resume=True), log)
    assert wait(resume) == 0, log.read_text()
    assert steps(tmp_path)[len(done) :] == list(range(saved + 1, SAVES * EPOCH + 1))
    name = f'epoch_{SAVES}.pth'
    assert same_content(whole / name, tmp_path / name)
    assert not list(tmp_path.glob('*.tmp'))
    kept = sorted(path.name for path in tmp_path.glob('*.pth'))
    assert kept == [f'epoch_{SAVES - 1}.pth', name]  # nothing outdated stays


def test_killed_at_random_moments(tmp_path: Path) -> None:
    """Thirty times in a row, until it is done; then the same from the start."""
    epochs, kills, round_number = 30, 0, 0
    toy(tmp_path / 'whole', epochs)
    rng = random.Random(0)
    while kills < 30:
        folder = tmp_path / f'round_{round_number}'
        folder.mkdir()
        round_number += 1
        finished = False
        while not finished and kills < 40:
            done = steps(folder)
            latest = find_latest_checkpoint(folder)
            saved = (
                torch.load(latest, weights_only=True)['meta']['iter'] if latest else 0
            )
            # Lost are at most the steps since the last checkpoint, one an epoch, and
            # those of the epoch before, if its file was being written.
            assert max(done, default=0) - saved <= 2 * EPOCH
            pid = fork(partial(toy, folder, epochs, True), folder / 'log.txt')
            time.sleep(rng.uniform(0.0, 1.0))
            os.kill(pid, signal.SIGKILL)
            code = wait(pid)
            assert code in (0, -signal.SIGKILL), (folder / 'log.txt').read_text()
            finished = code == 0
            kills += not finished
            fresh = steps(folder)[len(done) :]
            assert fresh == list(range(saved + 1, saved + 1 + len(fresh)))
        last = fork(partial(toy, folder, epochs, True), folder / 'log.txt')
        assert wait(last) == 0, (folder / 'log.txt').read_text()
        name = f'epoch_{epochs}.pth'
        assert same_content(tmp_path / 'whole' / name, folder / name)
