"""A progress bar for training; plain lines where there is no terminal."""

from __future__ import annotations

import atexit
import logging
import sys
import time
from typing import Any

from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
)

from mergevq_mm.registry import HOOKS
from mergevq_mm.utils.clock import clock


@HOOKS.register_module()
class ProgressHook(Hook):
    """Show how far the training is: epoch, iteration, loss, time left.

    On a terminal it draws one bar (rich), above which log lines appear as usual.
    Without one it writes a line every ``interval`` seconds, so that log files stay
    readable. Only the main process shows anything. The loss is read from the message
    hub, where the runner has put it anyway: no additional synchronisation.

    Args:
        interval (float): Seconds between two lines without a terminal. Defaults
            to 10.
        refresh (float): Seconds between two updates of the bar. Defaults to 0.5.
        loss (str): The scalar to show, a name in the message hub. Defaults to
            ``'train/loss'``.
        description (str): Shown in front of the numbers. Defaults to ``'train'``.

    Raises:
        ValueError: If an interval is not positive.
    """

    priority = 'VERY_LOW'  # after the scalars are written

    def __init__(
        self,
        interval: float = 10.0,
        refresh: float = 0.5,
        loss: str = 'train/loss',
        description: str = 'train',
    ) -> None:
        for name, value in (('interval', interval), ('refresh', refresh)):
            if value <= 0:
                raise ValueError(f'{name}={value} must be a positive time in seconds.')
        self.interval = interval
        self.refresh = refresh
        self.loss = loss
        self.description = description
        self._bar: Progress | None = None
        self._streams: list[tuple[logging.StreamHandler, Any]] = []
        self._start = self._last = 0.0
        self._first_iter = 0

    # ---- what is shown ------------------------------------------------------

    def remaining(self, done: int, total: int) -> float | None:
        """Estimate the time left from the mean time of this process's iterations.

        Args:
            done (int): Iterations done, those before a resume included.
            total (int): Iterations of the whole training.

        Returns:
            float | None: Seconds; None before the first iteration.
        """
        here = done - self._first_iter
        if here <= 0:
            return None
        return (time.monotonic() - self._start) / here * (total - done)

    def _loss_text(self, runner: Runner) -> str:
        """Write the latest loss, if there is one."""
        history = runner.message_hub.log_scalars.get(self.loss)
        return '' if history is None else f'loss {float(history.current()):.4f}'

    def _texts(self, runner: Runner, done: int) -> tuple[str, str, str]:
        """Write epoch, loss and time left."""
        left = self.remaining(done, runner.max_iters)
        epoch = f'epoch {min(runner.epoch + 1, runner.max_epochs)}/{runner.max_epochs}'
        eta = 'time left ?' if left is None else f'{clock(left)} left'
        return epoch, self._loss_text(runner), eta

    # ---- drawing ------------------------------------------------------------

    def before_train(self, runner: Runner) -> None:
        """Open the bar.

        Args:
            runner (Runner): The runner.
        """
        self._start = self._last = time.monotonic()
        self._first_iter = runner.iter
        console = Console()
        if not (is_main_process() and console.is_terminal):
            return
        self._bar = Progress(
            TextColumn(self.description),
            TextColumn('{task.fields[epoch]}'),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn('{task.fields[loss]}'),
            TimeElapsedColumn(),
            TextColumn('{task.fields[eta]}'),
            console=console,
            refresh_per_second=1 / self.refresh,
        )
        epoch, loss, eta = self._texts(runner, runner.iter)
        self._bar.add_task(
            self.description,
            total=runner.max_iters,
            completed=runner.iter,
            epoch=epoch,
            loss=loss,
            eta=eta,
        )
        self._bar.start()
        atexit.register(self._close)  # gives the cursor back after an exception
        self._redirect(runner.logger)

    def _redirect(self, logger: logging.Logger) -> None:
        """Let log lines appear above the bar instead of across it."""
        for handler in logger.handlers:
            if type(handler).__name__ == 'StreamHandler':
                proxy = sys.stderr if handler.stream is sys.__stderr__ else sys.stdout
                self._streams.append((handler, handler.setStream(proxy)))

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Any = None,
        outputs: dict | None = None,
    ) -> None:
        """Bring the bar up to date, or write a line if it is time.

        Args:
            runner (Runner): The runner.
            batch_idx (int): Unused.
            data_batch (Any): Unused. Defaults to None.
            outputs (dict, optional): Unused. Defaults to None.
        """
        if not is_main_process():
            return
        now, done = time.monotonic(), runner.iter + 1
        due = self.refresh if self._bar is not None else self.interval
        if now - self._last < due and done < runner.max_iters:
            return
        self._last = now
        epoch, loss, eta = self._texts(runner, done)
        if self._bar is not None:
            task = self._bar.task_ids[0]
            self._bar.update(task, completed=done, epoch=epoch, loss=loss, eta=eta)
            return
        share = 100 * done / runner.max_iters
        numbers = [epoch, f'iteration {done}/{runner.max_iters} ({share:.0f} %)']
        numbers += [text for text in (loss, eta) if text]
        runner.logger.info(f'{self.description}: ' + ', '.join(numbers))

    def after_train(self, runner: Runner) -> None:
        """Close the bar.

        Args:
            runner (Runner): The runner.
        """
        self._close()

    def _close(self) -> None:
        """Stop drawing and give the log its streams back."""
        for handler, stream in self._streams:
            if stream is not None:
                handler.setStream(stream)
        self._streams = []
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
            atexit.unregister(self._close)
