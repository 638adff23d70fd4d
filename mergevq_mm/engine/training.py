"""What a training has to have before its first step: batches, and fitting schedules."""

from __future__ import annotations

import logging
from typing import Any

from mmengine.logging import print_log
from mmengine.runner import Runner

from .first_step import check_steps
from .hooks.preemption_hook import PreemptionHook, protect_workers
from .hooks.run_state_hook import RunStateHook
from .quiet_runner import opening_words
from .sample_seeds import seed_samples
from .schedules import Length, fit_schedules


def prepare_training(runner: Any, ratio: float = 1.0) -> None:
    """See that a training has steps, and fit its schedules to their number.

    Its loop, which knows the number, is built for it, and that of the validation.

    Args:
        runner (Runner): Built, not yet run; changed in place. Runners of other kinds
            are left as they are.
        ratio (float): See :func:`~mergevq_mm.utils.schedule_length.schedule_ratio`.
            Defaults to 1.0.

    Raises:
        ValueError: If the data make no batch or the training has no step.
    """
    if not isinstance(runner, Runner):
        return
    hooks = [hook for hook in runner.hooks if isinstance(hook, PreemptionHook)]
    if hooks and isinstance(runner._train_dataloader, dict):
        # Loops that count iterations start their workers when they are built.
        diff = runner._randomness_cfg.get('diff_rank_seed', False)
        runner._train_dataloader = runner.build_dataloader(
            runner._train_dataloader, seed=runner.seed, diff_rank_seed=diff
        )
        protect_workers(runner._train_dataloader)
        if any(isinstance(hook, RunStateHook) for hook in runner.hooks):
            seed_samples(runner._train_dataloader)
    loop = runner.train_loop
    check_steps(loop.dataloader, loop.max_epochs, loop.max_iters)
    _ = runner.val_loop  # built now, so that its data are looked at as well
    try:
        epoch = max(len(loop.dataloader), 1)
    except TypeError:  # a stream
        epoch = max(loop.max_iters, 1)
    runner.logger.info(opening_words(runner))
    if runner.param_schedulers is not None:
        length = Length(loop.max_iters, loop.max_epochs, epoch)
        fitted, notes = fit_schedules(runner.param_schedulers, length, ratio)
        runner.param_schedulers = fitted
        for note in notes:
            print_log(
                f'param_scheduler: {note}', logger='current', level=logging.WARNING
            )
