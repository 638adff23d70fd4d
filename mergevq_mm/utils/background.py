"""Files that are written by a thread, from a copy in memory."""

from __future__ import annotations

import itertools
import logging
import os
import threading
import weakref
from collections.abc import Callable

from mmengine.fileio import register_backend
from mmengine.logging import print_log

from .atomic_backend import AtomicLocalBackend


class BackgroundJob:
    """A thread that does one job at a time; what goes wrong is told at once.

    A process that ends in whatever way but by a kill waits for its job.
    """

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    @property
    def failed(self) -> bool:
        """bool: Whether the job has ended with an error that nobody has seen."""
        return self._error is not None

    def start(self, job: Callable[[], None]) -> None:
        """Begin a job once the one before is done.

        Args:
            job (Callable): Nobody else may change what it works on.

        Raises:
            BaseException: What the job before has ended with.
        """
        self.wait()
        self._thread = threading.Thread(target=self._run, args=(job,), name='writer')
        self._thread.start()

    def wait(self) -> None:
        """Wait for the job, if there is one.

        Raises:
            BaseException: What it has ended with.
        """
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        error, self._error = self._error, None
        if error is not None:
            raise error

    def _run(self, job: Callable[[], None]) -> None:
        try:
            job()
        except BaseException as error:
            self._error = error  # raised where the run looks next
            print_log(str(error), logger='current', level=logging.ERROR)


class Snapshots(list):
    """Contents and paths of files that are to be written.

    mmengine hands on the arguments of a backend as text, so that :attr:`number` stands
    for the list there.
    """

    _all: weakref.WeakValueDictionary[int, Snapshots] = weakref.WeakValueDictionary()
    _numbers = itertools.count()

    def __init__(self) -> None:
        super().__init__()
        self.number = next(self._numbers)
        self._all[self.number] = self

    @classmethod
    def of(cls, number: int) -> Snapshots:
        """The list with a number."""
        return cls._all[number]


@register_backend('mergevq_snapshot', force=True)
class SnapshotBackend(AtomicLocalBackend):
    """The local disk, to which files go later.

    Args:
        number (int): Of the :class:`Snapshots` that get the content and the path of
            each file.
    """

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number

    def put(self, obj: bytes, filepath: str | os.PathLike) -> None:
        """Keep bytes, for whoever has the list to write them.

        Args:
            obj (bytes): What to write.
            filepath (str | PathLike): Where.
        """
        Snapshots.of(self.number).append((obj, str(filepath)))
