"""ProgressHook: lines without a terminal, a bar with one, silence on other ranks."""

from __future__ import annotations

import io
import logging
import re
from pathlib import Path

import pytest
from mmengine.registry import HOOKS
from rich.console import Console
from tiny_gan import make_runner

from mergevq_mm.engine.hooks import ProgressHook, progress_hook
from mergevq_mm.utils.clock import clock


def read_log(folder: Path) -> list[str]:
    (path,) = folder.glob('*/*.log')
    return [line for line in path.read_text().splitlines() if ' train: ' in line]


def test_lines_without_a_terminal(tmp_path: Path) -> None:
    make_runner(tmp_path, [ProgressHook(interval=1e-9)], epochs=2).train()
    lines = read_log(tmp_path)
    assert len(lines) == 8
    pattern = r'epoch 1/2, iteration 3/8 \(38 %\), loss \d+\.\d{4}, 0:00:0\d left'
    assert re.search(pattern, lines[2])
    assert 'epoch 2/2, iteration 8/8 (100 %)' in lines[-1]


def test_a_long_interval_leaves_the_last_line_only(tmp_path: Path) -> None:
    make_runner(tmp_path, [ProgressHook(interval=1000)], epochs=1).train()
    (line,) = read_log(tmp_path)
    assert 'iteration 4/4' in line


def test_bar_on_a_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    terminal = Console(file=screen, force_terminal=True, width=120)
    monkeypatch.setattr(progress_hook, 'Console', lambda: terminal)
    hook = ProgressHook(refresh=1e-3)
    runner = make_runner(tmp_path, [hook], epochs=2)
    before = [
        h.stream for h in runner.logger.handlers if type(h) is logging.StreamHandler
    ]
    runner.train()
    text = screen.getvalue()
    assert '8/8' in text and 'epoch 2/2' in text and 'loss ' in text
    assert hook._bar is None and not read_log(tmp_path)
    after = [
        h.stream for h in runner.logger.handlers if type(h) is logging.StreamHandler
    ]
    assert after == before


def test_other_ranks_are_silent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress_hook, 'is_main_process', lambda: False)
    make_runner(tmp_path, [ProgressHook(interval=1e-9)], epochs=1).train()
    assert not read_log(tmp_path)


def test_remaining_time_counts_this_process_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hook = ProgressHook()
    hook._start, hook._first_iter = 100.0, 40  # resumed at iteration 40
    monkeypatch.setattr(progress_hook.time, 'monotonic', lambda: 120.0)
    assert hook.remaining(40, 100) is None
    assert hook.remaining(50, 100) == pytest.approx(100.0)  # 2 s each, 50 to go
    assert clock(187.4) == '0:03:07' and clock(36000) == '10:00:00'


def test_arguments() -> None:
    with pytest.raises(ValueError, match='interval=0'):
        ProgressHook(interval=0)
    assert isinstance(
        HOOKS.build(dict(type='mergevq_mm.ProgressHook', refresh=2)), ProgressHook
    )
