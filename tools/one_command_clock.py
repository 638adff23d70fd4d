"""How long the phases of a one-command training take, and how much is left."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from one_command import Plan

SECONDS = '.seconds.json'  # of each phase, in a run's folder


def time_left(
    minutes: Mapping[str, float], seconds: Mapping[str, float]
) -> tuple[float, float]:
    """What is done of a plan, and how long the rest takes at the pace so far.

    Args:
        minutes (Mapping[str, float]): Phase to what it takes on two cores.
        seconds (Mapping[str, float]): Phase to what it took, of those that are done.

    Returns:
        tuple[float, float]: Share that is done, in [0, 1], and minutes left.
    """
    total = sum(minutes.values())
    done = sum(minutes.get(name, 0.0) for name in seconds)
    # A phase that was there already says nothing of the pace, nor do small ones alone.
    real = [n for n, s in seconds.items() if s > 6 * minutes.get(n, float('inf'))]
    known = sum(minutes[name] for name in real)
    took = sum(seconds[name] for name in real) / 60
    pace = took / known if known > total / 10 else 1.0
    return done / total, pace * (total - done)


def hours(minutes: float) -> str:
    """A duration for a reader: '2 h 40 min', '7 min'."""
    whole = max(1, round(minutes))
    text = f'{whole % 60} min'
    return f'{whole // 60} h {text}' if whole >= 60 else text


class Clock:
    """Seconds of each phase of a run, and the time left where the plan knows it.

    Args:
        plan (Plan): Of the run.
        work_dir (Path): Its folder, which keeps the seconds of a run that is stopped.
    """

    def __init__(self, plan: Plan, work_dir: Path) -> None:
        self.name = plan.name
        self.minutes = plan.minutes
        self.file = work_dir / SECONDS
        self.seconds: dict[str, float] = {}
        self.broken: list[str] = []  # phases that were stopped
        if self.file.is_file():
            told = json.loads(self.file.read_text())
            self.seconds, self.broken = told['seconds'], told['broken']
        self.done: set[str] = set()  # phases of this run

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Announce a phase and time it.

        What a stopped one took counts. Of one that had ended the longer time does: that
        of a training, which is there already, or of a measurement, which is repeated.
        """
        print(f'[{self.name}] {name} ...{self._left()}', flush=True)
        start, before = time.perf_counter(), self.seconds.get(name, 0.0)
        stopped = name in self.broken
        self.broken = sorted({*self.broken, name})
        try:
            yield
            self.broken.remove(name)
        finally:
            took = time.perf_counter() - start
            took = before + took if stopped else max(before, took)
            self.seconds[name] = round(took, 1)
            told = {'seconds': self.seconds, 'broken': self.broken}
            self.file.write_text(json.dumps(told))
        self.done.add(name)
        print(f'[{self.name}] {name}: {self.seconds[name]:.0f} s', flush=True)

    def _left(self, cells: int = 20) -> str:
        """A bar and the time left."""
        if not self.minutes:
            return ''
        done = {name: self.seconds[name] for name in self.done}
        share, left = time_left(self.minutes, done)
        full = round(cells * share)
        return f' [{"#" * full}{"." * (cells - full)}] {hours(left)} left in all'
