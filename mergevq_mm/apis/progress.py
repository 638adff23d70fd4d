"""How far long work is: a line that is renewed on a terminal, else one now and then."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TextIO, TypeVar

from ..utils.clock import clock

T = TypeVar('T')


def track(
    steps: Iterable[tuple[int, T]],
    total: int,
    name: str,
    interval: float = 10.0,
    file: TextIO | None = None,
) -> Iterator[T]:
    """Pass work on and tell how much of it is done.

    Args:
        steps (Iterable[tuple[int, T]]): What to pass on, each with the number of
            images that it is.
        total (int): Images in all.
        name (str): Of the work.
        interval (float): Seconds between two lines without a terminal. Defaults to
            10. On one it is at most half a second.
        file (TextIO, optional): Where to. Defaults to None, the standard error, so that
            results can be piped.

    Yields:
        T: What was to be passed on. Work of less than an interval writes nothing
        without a terminal.
    """
    file = file or sys.stderr
    terminal = file.isatty()
    interval = min(interval, 0.5) if terminal else interval
    start = last = time.monotonic()
    done, shown = 0, False
    for number, step in steps:
        yield step
        done, now = done + number, time.monotonic()
        if now - last < interval and not (shown and done >= total):
            continue
        last, shown = now, True
        left = (now - start) / max(done, 1) * max(total - done, 0)
        text = f'{name}: {done}/{total}, {clock(left)} left, {clock(now - start)} gone'
        end = '\r' if terminal and done < total else '\n'
        print(text, end=end, file=file, flush=True)
    if shown and terminal and done < total:  # some were passed over
        print(file=file, flush=True)
