"""A checkpoint hook that a kill at any moment cannot leave without a checkpoint."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from typing import Any

from mmengine.dist import is_main_process
from mmengine.hooks import CheckpointHook
from mmengine.runner import Runner

from mergevq_mm.evaluation.better import better_rule
from mergevq_mm.registry import HOOKS
from mergevq_mm.utils.atomic_backend import AtomicLocalBackend
from mergevq_mm.utils.background import BackgroundJob, Snapshots
from mergevq_mm.utils.fileio import clear_temporary, write_atomically

from .run_state_hook import RunStateHook

_BACKEND = 'mergevq_atomic'
_LATER = 'mergevq_snapshot'
# Where the message hub keeps the path of a checkpoint between two regular ones.
_BETWEEN = 'between_ckpt'
# And the names of those that the file which holds the list replaces.
_OUTDATED = 'outdated_ckpts'


@HOOKS.register_module()
class SafeCheckpointHook(CheckpointHook):
    """mmengine's ``CheckpointHook`` with an order of steps that survives a kill.

    Training waits while the content of the file is put together in memory; a thread
    does the rest:

    1. The new checkpoint is written under a temporary name, synced and renamed.
    2. ``last_checkpoint`` is replaced, atomically too.
    3. Only then are outdated checkpoints (``max_keep_ckpts``, the previous best)
       deleted. The new file has a list of them: what a kill leaves, or what cannot be
       deleted, goes when the run is resumed.

    One save at a time is under way: the next one, the end of the training, a test and
    :func:`save_now` wait for it. A write that fails is told at once and ends the run
    after its next step, as it would end without the thread. Until a file is written it
    takes its size in memory, and twice that while it is put together.

    All arguments are mmengine's. Folders that are not on a local disk, and runs with
    ``backend_args`` or ``file_client_args`` of their own, keep mmengine's behaviour.
    Together with :class:`RunStateHook`, which it asks for the states of all ranks
    before each save, a killed run resumes from the newest whole file.

    Args:
        *args: As for ``CheckpointHook``.
        **kwargs: As for ``CheckpointHook``.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._snapshots = Snapshots()
        self._writing = BackgroundJob()

    def before_train(self, runner: Runner) -> None:
        """Choose the backend of the files, and clear what a kill has left half written.

        Args:
            runner (Runner): The runner of the training process.
        """
        folder = str(self.out_dir or runner.work_dir)
        custom = self.backend_args is not None or self.file_client_args is not None
        if not custom and '://' not in folder:
            self.backend_args = dict(backend=_LATER, number=self._snapshots.number)
        super().before_train(runner)
        if self._is_atomic:
            self._take_over(runner)
        self._remove_outdated()
        if self._is_atomic and is_main_process():
            clear_temporary(self.out_dir, '*.pth')
            clear_temporary(runner.work_dir, 'last_checkpoint')

    def _take_over(self, runner: Runner) -> None:
        """Go on with the files of this folder, whatever paths the checkpoint holds.

        It may have been written in another one, of which this is a copy: to delete what
        it names there would take the best checkpoint of the original.
        """

        def own(path: str | None) -> str | None:
            return path and os.path.join(self.out_dir, os.path.basename(path))

        if hasattr(self, 'best_ckpt_path'):
            self.best_ckpt_path = own(self.best_ckpt_path)
        best = getattr(self, 'best_ckpt_path_dict', {})
        best.update({key: own(path) for key, path in best.items()})
        hub = runner.message_hub
        if _BETWEEN in hub.runtime_info:
            hub.update_info(_BETWEEN, own(hub.get_info(_BETWEEN)))
        names = hub.runtime_info.get(_OUTDATED, ())
        if names and is_main_process() and self._is_own(runner._load_from):
            for name in names:
                self.file_backend.remove(own(name))

    def _is_own(self, checkpoint: str | None) -> bool:
        """Whether the run was resumed from its folder; None: it was found there."""
        if checkpoint is None:
            return True
        folder = os.path.dirname(os.path.abspath(checkpoint))
        return os.path.realpath(folder) == os.path.realpath(self.out_dir)

    @property
    def _is_atomic(self) -> bool:
        # Before a training there is no backend.
        return isinstance(getattr(self, 'file_backend', None), AtomicLocalBackend)

    def _remove_outdated(self) -> None:
        """Delete what newer files replace."""
        if self._is_atomic:
            best = getattr(self, 'best_ckpt_path_dict', {}).values()
            single = getattr(self, 'best_ckpt_path', None)
            self.file_backend.remove_outdated((self.last_ckpt, single, *best))

    def _save_checkpoint_with_step(
        self, runner: Runner, step: int, meta: dict[str, Any]
    ) -> None:
        """Save, move ``last_checkpoint``, then delete what is outdated."""
        for hook in runner.hooks:
            if isinstance(hook, RunStateHook):
                hook.collect(runner)
        if not self._is_atomic:
            super()._save_checkpoint_with_step(runner, step, meta)
            return

        self._writing.wait()
        outdated = self._rotate(runner, step) if self.max_keep_ckpts > 0 else None
        between = runner.message_hub.runtime_info.pop(_BETWEEN, None)
        name = self.filename_tmpl.format(step)
        self.last_ckpt = self.file_backend.join_path(self.out_dir, name)
        runner.message_hub.update_info('last_ckpt', self.last_ckpt)
        replaced = (outdated, between, *self.file_backend.outdated)
        names = [os.path.basename(path) for path in replaced if path is not None]
        runner.message_hub.update_info(_OUTDATED, names)
        runner.save_checkpoint(
            self.out_dir,
            name,
            save_optimizer=self.save_optimizer,
            save_param_scheduler=self.save_param_scheduler,
            meta=meta,
            by_epoch=self.by_epoch,
            backend_args=self.backend_args,
            **self.args,
        )
        if is_main_process():
            self._write((outdated, between), runner.work_dir)

    def _write(self, outdated: Sequence[str | None] = (), record: str = '') -> None:
        """Let the thread write what was put together and delete what it replaces.

        Args:
            outdated (Sequence[str | None]): Files to delete. Defaults to ().
            record (str): The folder of ``last_checkpoint``, which moves to the newest
                file; '' leaves it. Defaults to ''.
        """
        snapshots = list(self._snapshots)
        self._snapshots.clear()
        self._writing.start(partial(self._finish, snapshots, outdated, record))

    def _finish(
        self,
        snapshots: list[tuple[bytes, str]],
        outdated: Sequence[str | None],
        record: str,
    ) -> None:
        """Write, move ``last_checkpoint``, delete."""
        while snapshots:
            write_atomically(*snapshots.pop(0))
        if record:
            path = os.path.join(record, 'last_checkpoint')
            write_atomically(self.last_ckpt.encode(), path)
        for path in outdated:
            if path is not None and self.file_backend.isfile(path):
                self.file_backend.remove(path)
        self._remove_outdated()

    def settle(self) -> None:
        """Wait until all files are written.

        Raises:
            OSError: If one could not be, for example on a full disk.
        """
        if self._snapshots:
            self._write()
        self._writing.wait()

    def after_train_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        """End a run whose files cannot be written; save, where steps are counted.

        Args:
            runner (Runner): The runner.
            *args (Any): As for mmengine's.
            **kwargs (Any): As for mmengine's.

        Raises:
            OSError: If the last file could not be written.
        """
        if self._writing.failed:
            self._writing.wait()
        super().after_train_iter(runner, *args, **kwargs)

    def after_train(self, runner: Runner) -> None:
        """Wait for the last files, then publish what is asked for.

        Args:
            runner (Runner): The runner.
        """
        self.settle()
        super().after_train(runner)

    def before_test(self, runner: Runner) -> None:
        """Wait for the last files.

        Args:
            runner (Runner): The runner.
        """
        self.settle()

    def _rotate(self, runner: Runner, step: int) -> str | None:
        """Note a step as kept, and name the file that has to go for it."""
        outdated = None
        if not self.keep_ckpt_ids or self.keep_ckpt_ids[-1] != step:
            if len(self.keep_ckpt_ids) == self.max_keep_ckpts:
                oldest = self.filename_tmpl.format(self.keep_ckpt_ids.popleft())
                outdated = self.file_backend.join_path(self.out_dir, oldest)
            self.keep_ckpt_ids.append(step)
            runner.message_hub.update_info('keep_ckpt_ids', list(self.keep_ckpt_ids))
        return outdated

    def _save_best_checkpoint(self, runner: Runner, metrics: dict[str, Any]) -> None:
        """Save a new best checkpoint before the previous one is deleted.

        A validation without a training saves nothing. With ``save_best='auto'`` the
        first metric that has a better and a worse counts.
        """
        if not hasattr(self, 'file_backend'):
            return
        if self.save_best and 'auto' in self.key_indicators:
            known = {key: v for key, v in metrics.items() if self._has_rule(key)}
            metrics = {**known, **metrics}
        if self.save_best:
            self._writing.wait()  # only a file that is there is replaced
        super()._save_best_checkpoint(runner, metrics)
        if self._snapshots:  # not written with a regular one
            self._write()

    def _has_rule(self, key: str) -> bool:
        """Whether a rule is given, mmengine's or the metric's own."""
        names = [*self.greater_keys, *self.less_keys]
        known = any(name.lower() in key.lower() for name in names)
        return known or better_rule(key) is not None or self.rules[0] is not None

    def _init_rule(
        self, rules: list[str | None], key_indicators: Sequence[str]
    ) -> None:
        """Ask the metrics which way is better, where the config does not say it."""
        if len(rules) == 1:
            rules = rules * len(key_indicators)
        named = {name.lower() for name in (*self.greater_keys, *self.less_keys)}
        found = [
            better_rule(key) if rule is None and key.lower() not in named else rule
            for rule, key in zip(rules, key_indicators)
        ]
        super()._init_rule(found, key_indicators)


def save_now(runner: Runner, epoch: int, iteration: int) -> str:
    """Save a checkpoint at once, whatever the interval. Call it on all ranks.

    A run that counts in epochs gets a file ``iter_<iteration>.pth``, which goes when
    its :class:`SafeCheckpointHook` has written the next regular one.

    Args:
        runner (Runner): Of a training, after a step.
        epoch (int): Epochs that are complete.
        iteration (int): Iterations that are complete.

    Returns:
        str: Path of the newest checkpoint.
    """
    hooks = [hook for hook in runner.hooks if isinstance(hook, CheckpointHook)]
    hook = hooks[0] if hooks else None
    settle = getattr(hook, 'settle', lambda: None)
    settle()
    meta = dict(epoch=epoch, iter=iteration)
    if hook is not None:
        regular = hook.filename_tmpl.format(epoch if hook.by_epoch else iteration)
        last = getattr(hook, 'last_ckpt', None)
        complete = not hook.by_epoch or runner.iter == iteration  # between two epochs
        if last is not None and os.path.basename(last) == regular and complete:
            return last
        if not hook.by_epoch:
            hook._save_checkpoint_with_step(runner, iteration, meta)
            settle()
            return hook.last_ckpt
    for state in runner.hooks:
        if isinstance(state, RunStateHook):
            state.collect(runner)
    folder = str(getattr(hook, 'out_dir', None) or runner.work_dir)
    backend = getattr(hook, 'backend_args', None)
    if backend is None and '://' not in folder:
        backend = dict(backend=_BACKEND)
    name = f'iter_{iteration}.pth'
    path = os.path.join(folder, name)
    runner.message_hub.update_info(_BETWEEN, path)
    runner.save_checkpoint(
        folder, name, meta=meta, by_epoch=False, backend_args=backend
    )
    settle()
    if is_main_process():
        record = os.path.join(runner.work_dir, 'last_checkpoint')
        write_atomically(path.encode(), record)
    return path
