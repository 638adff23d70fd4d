"""Stop a run whose loss stays NaN or infinite, with the last good checkpoint intact."""

from __future__ import annotations

import logging
from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.optim import OptimWrapper
from mmengine.runner import Runner
from mmengine.runner.checkpoint import find_latest_checkpoint
from torch import Tensor

from mergevq_mm.models.utils.finite import is_finite
from mergevq_mm.registry import HOOKS

from ..accumulation import each_wrapper
from ..bad_step import StepRecorder
from ..elastic import Pieces


@HOOKS.register_module()
class NaNGuardHook(Hook):
    """Count skipped steps and end the run after too many in a row.

    A hook cannot hold an optimizer back, so that the work is divided. The model's
    ``train_step`` looks at its losses before the backward pass
    (:func:`mergevq_mm.models.utils.finite.all_finite`, which all ranks agree on);
    where they are not finite it leaves the optimizers alone and returns
    ``nonfinite=1`` (otherwise ``nonfinite=0``) among its log variables. This hook
    counts such steps, logs the files of the batch, and raises once there are more
    than ``max_skips`` in a row or ``max_total`` in all. All ranks see the same flag, so
    all of them stop. Iterations that only accumulate gradients say nothing.

    Steps that a loss scaler (``--amp``) drops come as ``dropped=1``. They are part of
    its work: a scale of 65,536 is halved until the gradients fit, and then and again
    later. More than ``max_drops`` in a row mean that no scale is low enough, and the
    run ends too.

    A model without that contract is watched through its ``loss`` (all values whose
    key contains ``loss``): then the step was already taken, the weights are spoiled,
    and the run ends at once. What its loss scaler drops is seen by the falling scale.

    The first skipped step, and the last one of a run that a loss scaler ends, is
    written to ``work_dir/bad_step_<n>.pt`` with its batch, random states and weights,
    once and in at most 200 MB, for ``tools/replay.py``; see :mod:`..bad_step`.

    In all cases no checkpoint with a NaN or infinite weight is written: the check
    before saving raises, and the files on disk stay as they are.

    Args:
        max_skips (int): How many skipped steps in a row are tolerated. Defaults
            to 3.
        max_total (int): How many skipped steps of a start of the run are tolerated.
            Defaults to 100.
        max_files (int): How many files of a bad batch are named. Defaults to 32.
        check_weights (bool): Whether to look at all weights before a checkpoint is
            written. Defaults to True.
        max_drops (int): How many steps in a row a loss scaler may drop. Defaults to 20,
            sixteen of which lead from 65,536 to 1.

    Raises:
        ValueError: If a number is negative.
        FloatingPointError: In training, after more than ``max_skips`` skipped steps
            in a row, ``max_total`` in all or ``max_drops`` dropped ones, or before a
            checkpoint would be written with bad weights.
    """

    # Before CheckpointHook (VERY_LOW), so that nothing is saved after a bad step,
    # and before EMAHook (NORMAL), whose average it protects.
    priority = 'ABOVE_NORMAL'

    def __init__(
        self,
        max_skips: int = 3,
        max_files: int = 32,
        check_weights: bool = True,
        max_total: int = 100,
        max_drops: int = 20,
    ) -> None:
        numbers = {
            'max_skips': max_skips,
            'max_files': max_files,
            'max_total': max_total,
            'max_drops': max_drops,
        }
        for name, value in numbers.items():
            if value < 0:
                raise ValueError(f'{name}={value} is negative; give 0 or more.')
        self.max_skips = max_skips
        self.max_total = max_total
        self.max_drops = max_drops
        self.max_files = max_files
        self.check_weights = check_weights
        self.skips_in_a_row = 0
        self.skips_in_total = 0
        self.drops_in_a_row = 0
        self._scales: dict[str, float] = {}
        self._recorder, self._written = StepRecorder(), False

    def before_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None
    ) -> None:
        """Remember what the step begins with.

        Args:
            runner (Runner): The runner.
            batch_idx (int): The batch's index in the epoch.
            data_batch (Any): The batch. Defaults to None.
        """
        self._recorder.begin(runner, data_batch)

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Any = None,
        outputs: dict | None = None,
    ) -> None:
        """Look at the outcome of a training step.

        Args:
            runner (Runner): The runner.
            batch_idx (int): The batch's index in the epoch.
            data_batch (Any): The batch, for the names of its files. Defaults to None.
            outputs (dict, optional): What ``train_step`` returned. Defaults to None.
        """
        outputs = outputs or {}
        guarded = 'nonfinite' in outputs
        wrappers = dict(each_wrapper(runner.optim_wrapper))
        if guarded:
            dropped = bool(outputs.get('dropped', 0))
        else:
            self._check_unguarded(runner, data_batch, outputs)
            dropped = self._scale_fell(wrappers)
        if dropped:
            before, self._scales = self._scales, _scales_of(wrappers)
            self.drops_in_a_row += 1
            last = self.drops_in_a_row > self.max_drops
            if last and guarded:
                self._write(runner, outputs, before or self._scales)
            self._count_drop(runner, data_batch)
        if guarded and float(outputs['nonfinite']):
            self._write(runner, outputs, _scales_of(wrappers))
            self._count_skip(runner, data_batch)
        elif not dropped and all(w.should_update() for w in wrappers.values()):
            self.skips_in_a_row = self.drops_in_a_row = 0

    def _write(self, runner: Runner, outputs: dict, scales: dict[str, float]) -> None:
        """Write the step for its replay, once a folder, and say where."""
        if self._written:
            return
        self._written = True
        note = self._recorder.write(runner, outputs, scales)
        if note is not None:
            print_log(note, logger='current', level=logging.WARNING)

    def _scale_fell(self, wrappers: dict[str, OptimWrapper]) -> bool:
        """Whether a loss scaler has lowered its scale since the last call."""
        before, self._scales = self._scales, _scales_of(wrappers)
        return any(now < before.get(name, now) for name, now in self._scales.items())

    def _count_drop(self, runner: Runner, data_batch: Any) -> None:
        """Report a step that a loss scaler dropped; end the run after too many."""
        number, where = self.drops_in_a_row, f'iteration {runner.iter + 1}'
        scales = ', '.join(f'{scale:g}' for scale in self._scales.values())
        scales = f' (its scale is {scales} now)' if scales else ''
        if number > self.max_drops:
            raise FloatingPointError(
                f'The loss scaler has dropped {number} steps in a row, the last one at '
                f'{where}{scales}, more than max_drops={self.max_drops}: the gradients '
                f'are NaN or infinite at any scale; {self._last_checkpoint(runner)} '
                'Train without --amp or with --bf16, lower the learning rate or look '
                f'at the images of the batch:\n{self._name_files(data_batch)}'
            )
        print_log(
            f'The loss scaler drops the step of {where}{scales}, {number} in a row; '
            f'the run ends above {self.max_drops}.',
            logger='current',
            level=logging.WARNING,
        )

    def _count_skip(self, runner: Runner, data_batch: Any) -> None:
        """Report a step that the model skipped; end the run after too many."""
        self.skips_in_a_row += 1
        self.skips_in_total += 1
        where = f'iteration {runner.iter + 1}'
        files = self._name_files(data_batch)
        limit = None
        if self.skips_in_a_row > self.max_skips:
            number, limit = f'{self.skips_in_a_row} steps in a row', 'max_skips'
        elif self.skips_in_total > self.max_total:
            number, limit = f'{self.skips_in_total} steps in all', 'max_total'
        if limit is not None:
            raise FloatingPointError(
                f'A loss or gradient was NaN or infinite in {number}, the last one at '
                f'{where}, more than {limit}={getattr(self, limit)}; '
                f'{self._last_checkpoint(runner)} Lower the learning rate, clip '
                f'gradients or look at the images of the batch:\n{files}'
            )
        print_log(
            f'A loss or gradient is NaN or infinite at {where}: the step is skipped '
            f'({self.skips_in_a_row} in a row, the run ends above {self.max_skips}; '
            f'{self.skips_in_total} in total). Images of the batch:\n{files}',
            logger='current',
            level=logging.WARNING,
        )

    def _check_unguarded(self, runner: Runner, data_batch: Any, outputs: dict) -> None:
        """End the run at the first bad loss of a model without the contract."""
        for name, value in outputs.items():
            if 'loss' in name and not is_finite(value):
                raise FloatingPointError(
                    f'{name} is NaN or infinite at iteration {runner.iter + 1}, and '
                    'the model does not skip such steps: its weights are spoiled; '
                    f'{self._last_checkpoint(runner)} Images of the batch:\n'
                    f'{self._name_files(data_batch)}'
                )

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Refuse to write a checkpoint with NaN or infinite weights.

        Args:
            runner (Runner): The runner.
            checkpoint (dict): What is about to be written.
        """
        if not self.check_weights:
            return
        bad = [
            name
            for name, value in checkpoint.get('state_dict', {}).items()
            if isinstance(value, Tensor) and not bool(torch.isfinite(value).all())
        ]
        if bad:
            raise FloatingPointError(
                f'{len(bad)} weights ({", ".join(bad[:3])}, …) are NaN or infinite at '
                f'iteration {runner.iter + 1}, so that no checkpoint is written; '
                f'{self._last_checkpoint(runner)}'
            )

    def _last_checkpoint(self, runner: Runner) -> str:
        """Say from where the run can be continued."""
        path = find_latest_checkpoint(runner.work_dir)
        if path is None:
            return 'no checkpoint was written yet.'
        return f'the last checkpoint {path} is intact.'

    def _name_files(self, data_batch: Any) -> str:
        """List the files of a batch, one a line."""
        named = isinstance(data_batch, (dict, Pieces))
        samples = data_batch.get('data_samples') if named else []
        paths = [str(getattr(sample, 'img_path', None)) for sample in samples or []]
        paths = [path for path in paths if path != 'None']
        if not paths:
            return '  (the batch names no files)'
        lines = [f'  {path}' for path in paths[: self.max_files]]
        if len(paths) > self.max_files:
            lines.append(f'  … and {len(paths) - self.max_files} more')
        return '\n'.join(lines)


def _scales_of(wrappers: dict[str, OptimWrapper]) -> dict[str, float]:
    """Scales of the loss scalers, by optimizer. Reading one waits for the device."""
    return {
        name: wrapper.loss_scaler.get_scale()
        for name, wrapper in wrappers.items()
        if hasattr(wrapper, 'loss_scaler')
    }
