"""Notices a second run in the same work_dir before it spoils the files of the first."""

from __future__ import annotations

from typing import Any

from mmengine.dist import broadcast_object_list, is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mergevq_mm.registry import HOOKS

from ..work_dir_lock import WATCH, WorkDirInUse, WorkDirLock


@HOOKS.register_module()
class WorkDirLockHook(Hook):
    """Holds ``work_dir/run.lock`` while a training runs.

    The lock of a process that is not there any more is taken over. Validation and test
    alone do not lock: they may look at a running training. A run whose lock another one
    has taken ends at its next step, and writes no checkpoint any more.

    Args:
        watch (float): Seconds for which the lock of another machine is watched before
            it counts as left behind. Defaults to 35.
    """

    priority = 'HIGHEST'

    def __init__(self, watch: float = WATCH) -> None:
        self.watch = watch
        self._lock: WorkDirLock | None = None

    def before_train(self, runner: Runner) -> None:
        """Take the lock, on the first rank; all ranks learn of a failure.

        Args:
            runner (Runner): The runner.

        Raises:
            WorkDirInUse: If another run writes into the work_dir, a ValueError.
        """
        problem = None
        if is_main_process():
            try:
                self._lock = WorkDirLock(runner.work_dir, self.watch)
            except ValueError as error:
                problem = str(error)
            except OSError as error:
                problem = f'{error.strerror or error}.'
        answer = [problem]
        broadcast_object_list(answer)
        if answer[0] is not None:
            raise WorkDirInUse(answer[0])

    def before_train_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        """End a run that has lost its lock, as the thread has seen.

        Args:
            runner (Runner): The runner.
            *args (Any): Unused.
            **kwargs (Any): Unused.

        Raises:
            WorkDirInUse: If another run has it.
        """
        if self._lock is not None and self._lock.problem is not None:
            raise WorkDirInUse(self._lock.problem)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Look once more before a file is written over that of another run.

        Args:
            runner (Runner): The runner.
            checkpoint (dict): Unused.

        Raises:
            WorkDirInUse: If another run has the lock.
        """
        if self._lock is not None and not self._lock.owned():
            raise WorkDirInUse(self._lock.problem)

    def after_run(self, runner: Runner) -> None:
        """Give the lock back, all files being written; other ends do so on the exit.

        Args:
            runner (Runner): The runner.
        """
        if self._lock is not None:
            self._lock.release()
            self._lock = None
