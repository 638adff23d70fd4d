"""How long the phases of a one-command training take, and how much is left."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from mergevq_mm.utils.fileio import write_atomically

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
    """

    def __init__(self, plan: Plan) -> None:
        self.name = plan.name
        self.minutes = plan.minutes
        self.folder: Path | None = None
        self.seconds: dict[str, float] = {}
        self.broken: list[str] = []  # phases that were stopped
        self.done: set[str] = set()  # phases of this run

    def keep(self, work_dir: Path) -> None:
        """Have a run's folder from here on, and go on with the seconds it holds.

        Args:
            work_dir (Path): The folder, which keeps those of a run that is stopped.
        """
        self.folder = work_dir
        try:
            told = json.loads((work_dir / SECONDS).read_text())
            before, self.broken = dict(told['seconds']), list(told['broken'])
        except (OSError, ValueError, KeyError, TypeError):  # none, or no such file
            before = {}
        now = {name: max(s, before.get(name, 0.0)) for name, s in self.seconds.items()}
        self.seconds = {**before, **now}
        self._write()

    def _write(self) -> None:
        """Note the seconds in the run's folder, where it has one."""
        if self.folder is not None:
            told = {'seconds': self.seconds, 'broken': self.broken}
            write_atomically(json.dumps(told).encode(), self.folder / SECONDS)

    @contextmanager
    def _owning(self) -> Iterator[None]:
        """Lock the run's folder, where it has one, against a second run in it.

        Raises:
            TrainingRefused: If another one has it.
        """
        from mergevq_mm.engine.first_step import refusing
        from mergevq_mm.engine.work_dir_lock import WorkDirLock

        if self.folder is None:
            yield
            return
        with refusing():
            lock = WorkDirLock(self.folder)
        try:
            yield
        finally:
            lock.release()  # or a training within has done so

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
            with self._owning():
                yield
            self.broken.remove(name)
        finally:
            took = time.perf_counter() - start
            took = before + took if stopped else max(before, took)
            self.seconds[name] = round(took, 1)
            self._write()
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
