"""A full disk: the error names path and bytes, the previous checkpoint stays."""

from __future__ import annotations

import resource
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from processes import fork, same_content, steps, toy, wait

from mergevq_mm.utils.checkpoint_file import find_latest_checkpoint


def check(folder: Path, log: Path, whole: Path, reason: str) -> None:
    text = log.read_text()
    assert 'Saving ' in text and ' bytes to ' in text and reason in text
    assert f'"{folder / "epoch_2.pth"}" failed' in text
    assert 'free space or choose another folder; earlier files are kept' in text
    assert find_latest_checkpoint(folder) == str(folder / 'epoch_1.pth')
    assert not list(folder.glob('*.tmp'))
    done = len(steps(folder))
    assert 9 <= done <= 12  # the run ends after the next step
    pid = fork(lambda: toy(folder, 3, resume=True), log)
    assert wait(pid) == 0, log.read_text()
    assert steps(folder)[done:] == list(range(5, 13))
    assert same_content(folder / 'epoch_3.pth', whole / 'epoch_3.pth')


@pytest.fixture(scope='module')
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp('whole')
    toy(folder, 3)
    return folder


def test_limit_of_a_file(
    tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel refuses to write more than 8 kB into one file."""
    folder, log = tmp_path / 'run', tmp_path / 'log.txt'

    def run() -> None:
        from processes import StepLog

        real = StepLog.after_train_iter

        def limit(self: Any, runner: Any, *args: Any, **kwargs: Any) -> None:
            real(self, runner, *args, **kwargs)
            if runner.iter == 5:
                resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))

        StepLog.after_train_iter = limit
        toy(folder, 3)

    assert wait(fork(run, log)) == 1
    check(folder, log, whole, 'File too large')


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of a megabyte, where the user may mount one."""
    folder = tmp_path / 'disk'
    folder.mkdir()
    mount = ['mount', '-t', 'tmpfs', '-o', 'size=1m', 'tmpfs', str(folder)]
    try:
        done = subprocess.run(mount, capture_output=True, text=True)
    except OSError as error:
        pytest.skip(f'no mount here ({error})')
    if done.returncode:
        pytest.skip(f'may not mount ({done.stderr.strip()})')
    yield folder
    subprocess.run(['umount', str(folder)], check=True)


def test_full_file_system(tmp_path: Path, whole: Path, small_disk: Path) -> None:
    folder, log = small_disk / 'run', tmp_path / 'log.txt'
    filler = small_disk / 'filler'

    def run() -> None:
        from processes import StepLog

        real = StepLog.after_train_iter

        def fill(self: Any, runner: Any, *args: Any, **kwargs: Any) -> None:
            real(self, runner, *args, **kwargs)
            if runner.iter == 7:  # the last of the second epoch
                with open(filler, 'wb', buffering=0) as file:
                    try:
                        while True:
                            file.write(b'x' * 4096)
                    except OSError:
                        pass
                    file.truncate(file.tell() - 8192)  # room for the log

        StepLog.after_train_iter = fill
        toy(folder, 3)

    assert wait(fork(run, log)) == 1, log.read_text()
    filler.unlink()
    check(folder, log, whole, 'No space left on device')
