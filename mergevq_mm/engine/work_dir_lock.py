"""A file that says which run writes into a work_dir.

A lock is alive if its process is: on one machine the process is looked up, together
with the moment it was started at, for numbers are used again; on another machine the
owner has to touch the file, which is watched for a while. So a run that was killed
never blocks its successor for longer than that. To look and to take the lock is one
step: of two runs that start at the same moment one gets it.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import socket
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .first_step import TrainingRefused

LOCK_NAME = 'run.lock'
BEAT = 10.0  # seconds between two touches
WATCH = 35.0  # seconds after which an untouched lock of another machine is dead


class WorkDirInUse(TrainingRefused):
    """Another run writes into the work_dir."""


def _machine() -> str:
    """This machine, and in a container this space of process numbers."""
    space = ''
    with contextlib.suppress(OSError):
        space = os.readlink('/proc/self/ns/pid')
    return f'{socket.gethostname()} {space}'.strip()


def _started(pid: int) -> str | None:
    """When a process of this machine was started; None if it is not there."""
    try:
        stat = Path(f'/proc/{pid}/stat').read_text()
        fields = stat.rpartition(')')[2].split()
        return None if fields[0] in 'ZX' else fields[19]  # a zombie is dead
    except OSError:
        pass
    if os.path.isdir('/proc/self'):
        return None
    try:  # systems without /proc
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass
    return ''


def _read(path: Path) -> dict[str, Any] | None:
    """The owner's entry; None if there is none or it cannot be understood."""
    try:
        owner = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return owner if isinstance(owner, dict) and 'pid' in owner else None


def _is_alive(path: Path, owner: dict[str, Any], watch: float) -> bool:
    """Whether the owner of a lock still runs."""
    if owner.get('machine') == _machine():
        return _started(owner['pid']) == owner.get('started')
    before, end = path.stat().st_mtime_ns, time.monotonic() + watch
    while time.monotonic() < end:
        time.sleep(min(0.5, watch))
        if not path.exists():
            return False
        if path.stat().st_mtime_ns != before:
            return True
    return False


def check_free(folder: str | os.PathLike, watch: float = WATCH) -> None:
    """Refuse a work_dir that another run writes into.

    Args:
        folder (str | PathLike): The work_dir; it need not exist.
        watch (float): Seconds to watch a lock of another machine. Defaults to 35.

    Raises:
        ValueError: If another process owns it.
    """
    path = Path(folder, LOCK_NAME)
    owner = _read(path)
    if owner is None or _is_ours(owner):
        return
    with contextlib.suppress(FileNotFoundError):
        if _is_alive(path, owner, watch):
            machine = str(owner.get('machine')).split()[0]
            raise ValueError(
                f'work_dir="{folder}" is in use by process {owner["pid"]} on '
                f'{machine}, started {owner.get("since")} ({owner.get("command")}): '
                'choose another --work-dir or end that run first.'
            )


@contextlib.contextmanager
def _one_at_a_time(folder: Path) -> Iterator[None]:
    """Let the processes of a machine wait for each other, where it can."""
    try:
        import fcntl
    except ImportError:
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # a file system of a network
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _give_name(temporary: Path, path: Path) -> None:
    """Rename a whole file unless the name is taken, by a run of another machine.

    Raises:
        ValueError: If it is.
    """
    try:
        os.link(temporary, path)
    except FileExistsError:
        raise ValueError(
            f'work_dir="{path.parent}" was taken by another run at this moment: choose '
            'another --work-dir.'
        ) from None
    except OSError:  # no links on this file system
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _is_ours(owner: dict[str, Any]) -> bool:
    return (owner['pid'], owner.get('machine')) == (os.getpid(), _machine())


class WorkDirLock:
    """The lock of a run on its work_dir, touched by a thread while it is held.

    Args:
        folder (str | PathLike): The work_dir; it is made if it is missing.
        watch (float): See :func:`check_free`. Defaults to 35.

    Raises:
        ValueError: If another process owns it.
    """

    def __init__(self, folder: str | os.PathLike, watch: float = WATCH) -> None:
        self.path = Path(folder, LOCK_NAME)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._entry = dict(
            pid=os.getpid(),
            machine=_machine(),
            started=_started(os.getpid()),
            since=time.strftime('%Y-%m-%d %H:%M:%S'),
            command=' '.join(sys.argv)[:200],
        )
        # Processes of several machines or containers may have the same number.
        temporary = self.path.with_name(f'{LOCK_NAME}.{uuid.uuid4().hex}')
        with _one_at_a_time(self.path.parent):
            check_free(folder, watch)
            self.path.unlink(missing_ok=True)  # what a dead run left
            temporary.write_text(json.dumps(self._entry))
            _give_name(temporary, self.path)
        self._end = threading.Event()
        threading.Thread(target=self._beat, daemon=True).start()
        atexit.register(self.release)

    def _beat(self) -> None:
        """Touch the file until the lock is released."""
        while not self._end.wait(BEAT):
            with contextlib.suppress(OSError):
                os.utime(self.path)

    def release(self) -> None:
        """Remove the file, if it is still ours."""
        self._end.set()
        atexit.unregister(self.release)
        owner = _read(self.path)
        if owner is not None and _is_ours(owner):
            with contextlib.suppress(OSError):
                self.path.unlink()
