"""A second run in a work_dir is noticed; what a killed one left is not in the way."""

from __future__ import annotations

import json
import multiprocessing as mp
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mmengine.hooks import Hook
from toy_run import make_runner

from mergevq_mm.engine import work_dir_lock as wdl
from mergevq_mm.engine.work_dir_lock import LOCK_NAME, WorkDirLock, check_free

LOCK = dict(type='mergevq_mm.WorkDirLockHook', watch=1.0)
HOOKS = [dict(type='mergevq_mm.RunStateHook'), LOCK]


class Note(Hook):
    """Remembers who owns the lock in each epoch."""

    def __init__(self, owners: list[int]) -> None:
        self.owners = owners

    def before_train_epoch(self, runner: Any) -> None:
        lock = Path(runner.work_dir, LOCK_NAME)
        self.owners.append(json.loads(lock.read_text())['pid'])


def entry(pid: int, **changes: str) -> str:
    owner = dict(
        pid=pid,
        machine=wdl._machine(),
        started=wdl._started(pid),
        since='2026-01-01 00:00:00',
        command='tools/train.py a.py',
    )
    return json.dumps({**owner, **changes})


@pytest.fixture
def other() -> Iterator[int]:
    """A process that lives as long as the test."""
    process = subprocess.Popen([sys.executable, '-c', 'input()'], stdin=subprocess.PIPE)
    yield process.pid
    process.communicate(b'\n')


def test_a_living_process_is_named(tmp_path: Path, other: int) -> None:
    lock = tmp_path / LOCK_NAME
    lock.write_text(entry(other))
    message = rf'work_dir="{tmp_path}" is in use by process {other} on .*a\.py.*end'
    with pytest.raises(ValueError, match=message):
        make_runner(tmp_path, custom_hooks=HOOKS).train()
    assert lock.read_text() == entry(other)
    assert not list(tmp_path.glob('*.pth'))


@pytest.mark.parametrize('what', ['gone', 'reused', 'unreadable'])
def test_what_a_dead_process_left_is_taken_over(
    tmp_path: Path, other: int, what: str
) -> None:
    lock = tmp_path / LOCK_NAME
    if what == 'gone':
        process = subprocess.Popen([sys.executable, '-c', ''])
        process.wait()
        lock.write_text(entry(process.pid, started='1'))
    elif what == 'reused':  # the number now belongs to another process
        lock.write_text(entry(other, started='1'))
    else:
        lock.write_text('{"pid":')
    runner = make_runner(tmp_path, 2, custom_hooks=HOOKS)
    held = []
    runner.register_hook(Note(held))
    runner.train()
    assert held == [os.getpid()] * 2
    assert not lock.exists()


def test_another_machine_is_watched(tmp_path: Path) -> None:
    lock = tmp_path / LOCK_NAME
    lock.write_text(entry(1, machine='elsewhere'))
    check_free(tmp_path, watch=0.6)  # nobody touches it
    end = threading.Event()

    def touch() -> None:
        while not end.wait(0.1):
            os.utime(lock)

    thread = threading.Thread(target=touch)
    thread.start()
    try:
        with pytest.raises(ValueError, match='process 1 on elsewhere'):
            check_free(tmp_path, watch=20)
    finally:
        end.set()
        thread.join()


def test_the_owner_touches_its_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wdl, 'BEAT', 0.05)
    lock = WorkDirLock(tmp_path)
    os.utime(lock.path, (0, 0))
    end = time.monotonic() + 20
    while lock.path.stat().st_mtime == 0 and time.monotonic() < end:
        time.sleep(0.05)
    assert lock.path.stat().st_mtime > 0
    WorkDirLock(tmp_path).release()  # the same process may come again
    assert not lock.path.exists()
    lock.release()


def test_the_lock_of_a_successor_stays(tmp_path: Path, other: int) -> None:
    lock = WorkDirLock(tmp_path)
    lock.path.write_text(entry(other))
    lock.release()
    assert lock.path.exists()


def _take(barrier: Any, folder: str, queue: Any) -> None:
    barrier.wait()
    lock = None
    try:
        lock = WorkDirLock(folder, watch=0)
        queue.put('')
    except ValueError as error:
        queue.put(str(error))
    barrier.wait()  # it is held until all have asked for it
    if lock is not None:
        lock.release()


@pytest.mark.parametrize('stale', [False, True])
def test_two_runs_at_the_same_moment(stale: bool, tmp_path: Path) -> None:
    context = mp.get_context('fork')
    for trial in range(6):
        folder = tmp_path / str(trial)
        folder.mkdir()
        if stale:
            (folder / LOCK_NAME).write_text(entry(2**22 + 1, started='1'))
        barrier, queue = context.Barrier(3, timeout=60), context.Queue()
        runs = [
            context.Process(target=_take, args=(barrier, str(folder), queue))
            for _ in range(3)
        ]
        for process in runs:
            process.start()
        answers = sorted(queue.get(timeout=60) for _ in runs)
        for process in runs:
            process.join()
        assert answers[0] == '' and all('is in use by' in a for a in answers[1:])
        assert not list(folder.iterdir())


def test_a_run_of_another_machine_comes_first(tmp_path: Path) -> None:
    """Where no lock of the kernel reaches: the name goes to one alone."""
    temporary, path = tmp_path / 'run.lock.1', tmp_path / LOCK_NAME
    temporary.write_text('ours')
    path.write_text('theirs')
    with pytest.raises(ValueError, match='was taken by another run at this moment'):
        wdl._give_name(temporary, path)
    assert path.read_text() == 'theirs' and not temporary.exists()


def test_a_lock_that_was_deleted_is_taken_again(tmp_path: Path) -> None:
    lock = WorkDirLock(tmp_path)
    lock.path.unlink()
    assert lock.owned() and json.loads(lock.path.read_text()) == lock._entry
    lock.release()
    assert not list(tmp_path.iterdir())


def held(work_dir: str | Path) -> WorkDirLock:
    return wdl._HELD[str(Path(work_dir, LOCK_NAME).resolve())]


class Taken(Hook):
    """Another run takes the lock while iteration ``at`` is done."""

    def __init__(self, at: int, content: str, seen: bool) -> None:
        self.at, self.content, self.seen = at, content, seen

    def before_train_iter(self, runner: Any, *args: Any, **kwargs: Any) -> None:
        if runner.iter + 1 == self.at:
            Path(runner.work_dir, LOCK_NAME).write_text(self.content)
            assert not self.seen or not held(runner.work_dir).owned()  # as its thread


@pytest.mark.parametrize('seen', [False, True])
def test_a_run_that_has_lost_its_lock_ends(
    tmp_path: Path, other: int, seen: bool
) -> None:
    """At the next step where its thread has seen it; else before a file is written."""
    content = entry(other, run='another')
    runner = make_runner(tmp_path, 2, custom_hooks=HOOKS)
    runner.register_hook(Taken(2, content, seen))
    message = rf'work_dir="{tmp_path}" was taken over by process {other} on .*ends'
    with pytest.raises(wdl.WorkDirInUse, match=message):
        runner.train()
    assert len(runner.model.seen) == (2 if seen else 4)
    assert not list(tmp_path.glob('*.pth'))
    assert (tmp_path / LOCK_NAME).read_text() == content
    held(tmp_path).release()
    assert (tmp_path / LOCK_NAME).read_text() == content


def test_no_room_for_a_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, text: str) -> None:
        path.touch()
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(Path, 'write_text', full)
    message = rf'^"{tmp_path}.*run.lock" cannot be written .No space.*: free space'
    with pytest.raises(wdl.WorkDirInUse, match=message):
        make_runner(tmp_path, custom_hooks=HOOKS).train()
    assert not list(tmp_path.glob(f'{LOCK_NAME}*'))
