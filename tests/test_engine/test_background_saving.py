"""Training goes on while a file is written; whatever ends it, the file is whole."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner
from toy_run import make_runner

from mergevq_mm.engine.hooks import safe_checkpoint_hook
from mergevq_mm.engine.hooks.safe_checkpoint_hook import save_now
from mergevq_mm.utils.background import BackgroundJob
from mergevq_mm.utils.checkpoint_file import find_latest_checkpoint

EPOCH = 4  # steps


class AtStep(Hook):
    """Calls a function after a step."""

    priority = 'LOWEST'

    def __init__(self, step: int, function: Callable[[Runner], None]) -> None:
        self.step, self.function = step, function

    def after_train_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        if runner.iter + 1 == self.step:
            self.function(runner)


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Holds the thread before it writes, once the gate is closed."""
    opened, real = threading.Event(), safe_checkpoint_hook.write_atomically
    opened.set()

    def write(content: bytes, path: str) -> None:
        assert opened.wait(20)
        real(content, path)

    monkeypatch.setattr(safe_checkpoint_hook, 'write_atomically', write)
    return opened


def test_training_goes_on_and_the_file_holds_what_was(
    tmp_path: Path, gate: threading.Event
) -> None:
    whole = make_runner(tmp_path / 'whole', 1)
    whole.train()
    runner, seen = make_runner(tmp_path / 'run', 2), []
    gate.clear()

    def look(runner: Runner) -> None:
        seen.extend(path.name for path in (tmp_path / 'run').glob('*.pth'))
        gate.set()

    runner.register_hook(AtStep(EPOCH + 3, look))
    runner.train()
    assert seen == []  # three steps of the second epoch, and no file yet
    name = 'epoch_1.pth'
    a, b = (torch.load(tmp_path / run / name) for run in ('whole', 'run'))
    assert all(
        torch.equal(a['state_dict'][k], b['state_dict'][k]) for k in a['state_dict']
    )
    momenta = [c['optimizer']['state'][0]['momentum_buffer'] for c in (a, b)]
    assert torch.equal(*momenta)
    latest = find_latest_checkpoint(tmp_path / 'run')
    assert latest == str(tmp_path / 'run' / 'epoch_2.pth')


def test_a_run_that_is_told_to_stop_waits(
    tmp_path: Path, gate: threading.Event
) -> None:
    """The regular file, then the one between, then the record."""
    runner, paths = make_runner(tmp_path, 2), []
    gate.clear()

    def stop(runner: Runner) -> None:
        threading.Timer(0.2, gate.set).start()
        paths.append(save_now(runner, runner.epoch, runner.iter + 1))
        raise SystemExit(143)

    runner.register_hook(AtStep(EPOCH + 1, stop))
    with pytest.raises(SystemExit):
        runner.train()
    assert sorted(p.name for p in tmp_path.glob('*.pth*')) == [
        'epoch_1.pth',
        'iter_5.pth',
    ]
    assert (tmp_path / 'last_checkpoint').read_text() == paths[0]
    assert find_latest_checkpoint(tmp_path) == paths[0]


def test_a_failed_write_ends_the_run_after_its_next_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(content: bytes, path: str) -> None:
        raise OSError(28, f'Saving {len(content)} bytes to "{path}" failed')

    monkeypatch.setattr(safe_checkpoint_hook, 'write_atomically', full)
    runner = make_runner(tmp_path / 'a', 3)
    hook = next(h for h in runner.hooks if hasattr(h, 'settle'))
    started = hook._writing.start

    def start(job: Callable[[], None]) -> None:
        started(job)
        hook._writing._thread.join()  # it has failed before the next step

    monkeypatch.setattr(hook._writing, 'start', start)
    with pytest.raises(OSError, match='Saving .* bytes to .*epoch_1.pth'):
        runner.train()
    assert len(runner.model.seen) == EPOCH + 1
    # With no step to come, the end of the training says so.
    with pytest.raises(OSError, match='epoch_1.pth'):
        make_runner(tmp_path / 'b', 1).train()


def test_best_files_replace_each_other(tmp_path: Path) -> None:
    """Without a regular file beside them, too."""
    options = dict(save_best='val/score', rule='greater', interval=9, save_last=False)
    make_runner(tmp_path, 3, checkpoint=options).train()
    assert [p.name for p in tmp_path.glob('*.pth')] == ['best_val_score_epoch_3.pth']


def test_the_work_dir_is_held_until_the_last_file_is_written(
    tmp_path: Path, gate: threading.Event
) -> None:
    lock = dict(type='mergevq_mm.WorkDirLockHook')
    hooks = [dict(type='mergevq_mm.RunStateHook'), lock]
    runner, held = make_runner(tmp_path, 1, custom_hooks=hooks), []

    def open_gate() -> None:
        held.append((tmp_path / 'run.lock').exists())
        gate.set()

    gate.clear()
    threading.Timer(1.0, open_gate).start()
    runner.train()
    assert held == [True] and (tmp_path / 'epoch_1.pth').exists()
    assert not (tmp_path / 'run.lock').exists()


def test_one_job_at_a_time() -> None:
    job, order, first = BackgroundJob(), [], threading.Event()
    job.start(lambda: (first.wait(10), order.append(1)))
    threading.Timer(0.1, first.set).start()
    job.start(lambda: order.append(2))
    job.wait()
    assert order == [1, 2] and not job.failed
