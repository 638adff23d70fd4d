"""A file that says which run writes into a work_dir.

A lock is alive if its process is: on one machine the process is looked up, together
with the moment it was started at, for numbers are used again; on another machine the
owner has to touch the file, which is watched for a while. So a run that was killed
never blocks its successor for longer than that. To look and to take the lock is one
step: of two runs that start at the same moment one gets it. On file systems of a
network, where that cannot be promised, the owner looks at each touch whether the lock
is still its own.
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
# The locks of this process: a run that failed may be followed by another.
_HELD: dict[str, WorkDirLock] = {}


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
            # Processes of several machines or containers may have the same number.
            run=uuid.uuid4().hex,
        )
        with _one_at_a_time(self.path.parent):
            check_free(folder, watch)
            self.path.unlink(missing_ok=True)  # what a dead run left
            self._write()
        self.problem: str | None = None
        self._end = threading.Event()
        before = _HELD.pop(str(self.path.resolve()), None)
        if before is not None:
            before._end.set()
        _HELD[str(self.path.resolve())] = self
        threading.Thread(target=self._beat, daemon=True).start()
        atexit.register(self.release)

    def _write(self) -> None:
        """Make the file, whole at once, unless there is one."""
        temporary = self.path.with_name(f'{LOCK_NAME}.{uuid.uuid4().hex}')
        try:
            temporary.write_text(json.dumps(self._entry))
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise OSError(
                error.errno,
                f'"{self.path}" cannot be written ({error.strerror}): free space or '
                'choose another --work-dir',
            ) from error
        _give_name(temporary, self.path)

    def _beat(self) -> None:
        """Own the lock again and again until it is released or lost."""
        while not self._end.wait(BEAT) and self.owned():
            pass

    def owned(self) -> bool:
        """Touch the lock; one that is gone is taken again.

        Returns:
            bool: False if another run has taken it, which ``problem`` then names.
        """
        owner = _read(self.path)
        if self.problem is None and owner is None and not self.path.exists():
            with contextlib.suppress(OSError, ValueError):  # the next look tells who
                self._write()
        elif owner is not None and owner.get('run') != self._entry['run']:
            machine = str(owner.get('machine')).split()[0]
            self.problem = (
                f'work_dir="{self.path.parent}" was taken over by process '
                f'{owner["pid"]} on {machine} ({owner.get("command")}): this run ends, '
                'so that not both write there; start it again with another --work-dir.'
            )
        else:
            with contextlib.suppress(OSError):
                os.utime(self.path)
        return self.problem is None

    def release(self) -> None:
        """Remove the file, if it is still ours."""
        self._end.set()
        atexit.unregister(self.release)
        if _HELD.get(str(self.path.resolve())) is self:
            del _HELD[str(self.path.resolve())]
        owner = _read(self.path)
        if owner is not None and owner.get('run') == self._entry['run']:
            with contextlib.suppress(OSError):
                self.path.unlink()
