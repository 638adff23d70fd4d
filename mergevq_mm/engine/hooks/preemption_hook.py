"""Ends a run that is asked to stop after the step, with a checkpoint."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from types import FrameType
from typing import Any

import torch
from mmengine.dist import all_reduce, barrier, is_distributed
from mmengine.hooks import EMAHook, Hook
from mmengine.logging import print_log
from mmengine.runner import Runner
from torch.utils.data import DataLoader

from mergevq_mm.registry import HOOKS

from .safe_checkpoint_hook import save_now

# Launchers hand on a Ctrl-C that the terminal has sent to all processes already.
_INSIST_AFTER = 3.0  # seconds
# SIGUSR1 is Slurm's usual warning, SIGHUP comes when a terminal or an ssh goes. Windows
# has neither.
_ASKED = ('SIGTERM', 'SIGINT')
_WARNED = ('SIGUSR1', 'SIGHUP')


def _numbers(names: Sequence[str]) -> list[int]:
    """The signals of those names that this system has."""
    return [getattr(signal, name) for name in names if hasattr(signal, name)]


class Preempted(SystemExit):
    """The run was asked to stop and has saved; the code is 128 + the signal."""


def _in_own_group(init: Callable[[int], Any] | None, worker_id: int) -> None:
    """Start a data worker that signals to the group of its parent do not reach.

    It must not ignore SIGTERM, with which its parent ends it. The warnings, which some
    schedulers send to each single process, are not for it.
    """
    os.setpgid(0, 0)
    for number in _numbers(_WARNED):
        signal.signal(number, signal.SIG_IGN)
    if init is not None:
        init(worker_id)


def protect_workers(loader: Any) -> None:
    """Give the workers of a data loader a group of their own, before they start.

    Args:
        loader (DataLoader): Changed in place; anything else is left alone.
    """
    if not isinstance(loader, DataLoader) or not loader.num_workers:
        return
    init = loader.worker_init_fn
    if getattr(init, 'func', None) is not _in_own_group:
        loader.worker_init_fn = partial(_in_own_group, init)


@HOOKS.register_module()
class PreemptionHook(Hook):
    """Finishes the step, saves and exits on SIGTERM, Ctrl-C, SIGUSR1 and SIGHUP.

    The process exits with 143 after SIGTERM and with 130 after Ctrl-C, as if it had
    been ended by the signal; so it does after SIGUSR1, Slurm's usual warning (138), and
    SIGHUP (129), unless they are ignored, as by ``nohup``, or somebody else handles
    them. If one of several ranks gets the signal, all of them stop after the same step.
    The checkpoint goes to ``iter_<iteration>.pth`` and ``last_checkpoint``; the run
    resumes with the next batch, and the file goes once the next regular checkpoint is
    there. A second Ctrl-C, three seconds later or more, ends the run at once.

    A validation is broken off in a single process; several ranks finish it first.
    Signals to the whole group of processes do not reach the workers of the data
    loaders, which get a group of their own. (Those of an iteration-based loop exist
    before any hook is called; ``tools/train.py`` sees to them.)

    It has the lowest priority: averages, schedules, logs and regular checkpoints of the
    step come first.

    Args:
        interval (int): Ranks ask each other every so many iterations. Defaults to 1.

    Raises:
        ValueError: If ``interval`` is not positive.
    """

    priority = 'LOWEST'

    def __init__(self, interval: int = 1) -> None:
        if interval < 1:
            raise ValueError(f'interval={interval} is not positive; give 1 or more.')
        self.interval = interval
        self._signal = 0
        self._since = 0.0
        self._pid = os.getpid()
        self._previous: dict[int, Any] = {}

    # ---- signals ------------------------------------------------------------

    def before_run(self, runner: Runner) -> None:
        """Protect the workers of data loaders, before they are started.

        Args:
            runner (Runner): The runner.
        """
        for name in ('_train_loop', '_val_loop'):
            protect_workers(getattr(getattr(runner, name, None), 'dataloader', None))

    def before_train(self, runner: Runner) -> None:
        """Start to listen, where Python allows it (in the main thread).

        Args:
            runner (Runner): The runner.
        """
        self._signal, self._pid = 0, os.getpid()
        if threading.current_thread() is not threading.main_thread():
            return
        for number in _numbers(_ASKED + _WARNED):
            free = signal.getsignal(number) == signal.SIG_DFL
            if number in _numbers(_WARNED) and not free:
                continue  # nohup ignores one, launchers such as submitit handle one
            self._previous[number] = signal.signal(number, self._note)

    def after_train(self, runner: Runner) -> None:
        """Stop to listen.

        Args:
            runner (Runner): The runner.
        """
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}

    def _note(self, number: int, frame: FrameType | None) -> None:
        """Remember a signal; whatever is going on now is finished first."""
        if os.getpid() != self._pid:  # a process that was forked from this one
            return
        now = time.monotonic()
        if not self._signal:
            self._signal, self._since = number, now
            # Loggers hold locks, which the interrupted code may hold too.
            os.write(2, b'\nThe run ends after this step, with a checkpoint.\n')
        elif number == signal.SIGINT and now - self._since > _INSIST_AFTER:
            raise KeyboardInterrupt

    # ---- stopping -----------------------------------------------------------

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Any = None,
        outputs: dict | None = None,
    ) -> None:
        """Save and exit if any rank was asked to stop.

        Args:
            runner (Runner): The runner.
            batch_idx (int): The batch's index in the epoch.
            data_batch (Any): Unused. Defaults to None.
            outputs (dict, optional): Unused. Defaults to None.

        Raises:
            Preempted: After the checkpoint was written.
        """
        number = self._signal
        if is_distributed():
            if (runner.iter + 1) % self.interval:
                return
            flag = torch.tensor(number)
            all_reduce(flag, op='max')
            number = int(flag)
        if number:
            self._stop(runner, number, runner.iter + 1)

    def after_val_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Any = None,
        outputs: Sequence | None = None,
    ) -> None:
        """Break off a validation between two epochs of training.

        Args:
            runner (Runner): The runner.
            batch_idx (int): Unused.
            data_batch (Any): Unused. Defaults to None.
            outputs (Sequence, optional): Unused. Defaults to None.

        Raises:
            Preempted: After the checkpoint was written.
        """
        if self._signal and self._previous and not is_distributed():
            for hook in runner.hooks:
                if isinstance(hook, EMAHook):  # the model holds the average
                    hook.after_val_epoch(runner)
            self._stop(runner, self._signal, runner.iter)

    def _stop(self, runner: Runner, number: int, iteration: int) -> None:
        """Write the checkpoint on all ranks, then exit."""
        path = save_now(runner, runner.epoch, iteration)
        print_log(
            f'Stopped by {signal.Signals(number).name} after iteration {iteration}; '
            f'resume from "{path}" (--resume).',
            logger='current',
            level=logging.WARNING,
        )
        # Launchers end all ranks as soon as one is gone.
        barrier()
        self.after_train(runner)
        raise Preempted(128 + number)
