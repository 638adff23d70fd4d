"""What each process of a run said last, for the launcher to tell who ended it.

A process that is killed says nothing, and the others only that a connection was closed.
So ``tools/launch.py`` gives the processes a folder, and each leaves there the last line
that it has logged, and how and when it has ended.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

FOLDER = 'MERGEVQ_LAST_LINES'  # the variable with the folder


def _path(ending: str) -> Path | None:
    """The file of this process; None outside the launcher."""
    folder = os.environ.get(FOLDER)
    return Path(folder, f'{os.environ.get("RANK", 0)}.{ending}') if folder else None


class LastLine(logging.Handler):
    """Keeps the last line that a logger was given in a file.

    Args:
        path (Path): The file.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._file = open(path, 'w', encoding='utf-8')  # noqa: SIM115

    def emit(self, record: logging.LogRecord) -> None:
        """Replace the line."""
        line = (record.getMessage().splitlines() or [''])[-1]
        with contextlib.suppress(OSError):
            self._file.seek(0)
            self._file.truncate()
            self._file.write(line)
            self._file.flush()


def follow(logger: logging.Logger) -> None:
    """Keep the last line of a logger, under the launcher.

    Args:
        logger (Logger): Of this process.
    """
    path = _path('line')
    if path is not None:
        logger.addHandler(LastLine(path))


def _exit_code(error: BaseException) -> int:
    """The code with which Python ends for an error; negative for a signal."""
    if isinstance(error, KeyboardInterrupt):
        return -signal.SIGINT
    if not isinstance(error, SystemExit):
        return 1
    if error.code is None:
        return 0
    return error.code if isinstance(error.code, int) else 1


@contextlib.contextmanager
def last_words() -> Iterator[None]:
    """Keep how a program has ended, unless it succeeds, under the launcher."""
    try:
        yield
    except BaseException as error:
        path, code = _path('end'), _exit_code(error)
        if path is not None and code:
            words = str(error).splitlines() or ['']
            name = '' if isinstance(error, SystemExit) else f'{type(error).__name__}: '
            text = f'{time.time_ns()} {code} {name}{words[0]}'
            with contextlib.suppress(OSError):
                path.write_text(text, encoding='utf-8')
        raise


def _read(folder: str, rank: int, ending: str) -> str:
    """What a process has left; '' for nothing."""
    with contextlib.suppress(OSError):
        return Path(folder, f'{rank}.{ending}').read_text(encoding='utf-8').strip()
    return ''


def _end(folder: str, rank: int) -> tuple[int, int, str] | None:
    """When a process ended by itself, with which code and words; None if it did not."""
    time_ns, _, rest = _read(folder, rank, 'end').partition(' ')
    code, _, words = rest.partition(' ')
    return (int(time_ns), int(code), words) if code else None


def chosen_codes(folder: str, exit_codes: Mapping[int, int]) -> dict[int, int]:
    """The exit codes with which processes meant to end.

    One that has said its last words can still be killed: torch aborts where a group is
    torn down while its threads run, and the launcher stops who waits.

    Args:
        folder (str): Where they have left their last lines.
        exit_codes (Mapping[int, int]): Of those that failed by rank; negative ones are
            signals.

    Returns:
        dict[int, int]: The same; a signal only of those that it surprised.
    """
    return {
        rank: end[1] if (end := _end(folder, rank)) else code
        for rank, code in exit_codes.items()
    }


def who_ended(folder: str, exit_codes: Mapping[int, int], world: int | None) -> str:
    """Tell which process of a run ended first, and how.

    Args:
        folder (str): Where they have left their last lines.
        exit_codes (Mapping[int, int]): Of those that failed by rank; negative ones are
            signals.
        world (int, optional): Number of processes, if it is known.

    Returns:
        str: A sentence.
    """
    codes = chosen_codes(folder, exit_codes)

    def order(rank: int) -> tuple[bool, int, int]:
        # A signal comes from outside; but for the launcher's own, to the others.
        killed = codes[rank] < 0 and codes[rank] != -signal.SIGTERM
        end = _end(folder, rank)
        return not killed, end[0] if end else 2**63, rank

    rank = min(codes, key=order)
    code, line = codes[rank], _read(folder, rank, 'line')
    if code < 0:
        how = f'was ended by {signal.Signals(-code).name}'
    else:
        how = f'has ended with exit code {code}'
        line = (end[2] if (end := _end(folder, rank)) else '') or line
    said = f'; its last line: {line}' if line else ''
    of = f' of {world}' if world else ''
    return f'rank {rank}{of} {how}, and the others were stopped{said}'
