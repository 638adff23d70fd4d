"""Says which schedules a resumed run follows, and builds them anew if asked to."""

from __future__ import annotations

import logging
from typing import Any

from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.runner import Runner

from mergevq_mm.registry import HOOKS

from ..accumulation import each_wrapper
from ..first_step import TrainingRefused
from ..schedule_state import (
    by_optimizer,
    describe,
    differences,
    get_start,
    is_rebuildable,
    replay,
)

_REMEDY = (
    'tools/train.py --resume --rebuild-schedules, or '
    'default_hooks.resumed_schedules.rebuild=True'
)


@HOOKS.register_module()
class ResumedSchedulesHook(Hook):
    """Compares the schedules of a checkpoint with those of the resumed run's config.

    mmengine goes on with the checkpoint's, whatever the config says now: a run that is
    resumed for more epochs keeps the end of its old cosine. Here a sentence says what
    follows for each schedule that the config would make otherwise. With ``rebuild`` the
    config's take their place, at the step where the run stands, as if the run had begun
    with them.

    Args:
        rebuild (bool): Whether to follow the config. Defaults to False.

    Raises:
        ValueError: On resuming, if the checkpoint holds schedules of another number or
            kind and ``rebuild`` is False.
    """

    priority = 'HIGH'  # after RunStateHook has decoded the checkpoint

    def __init__(self, rebuild: bool = False) -> None:
        self.rebuild = rebuild
        self._start: dict[str, tuple] = {}

    def before_run(self, runner: Runner) -> None:
        """Keep what the config makes, before a checkpoint is loaded over it.

        Args:
            runner (Runner): The runner.
        """
        self._start = {}
        schedulers = by_optimizer(runner.param_schedulers)
        built = all(map(is_rebuildable, sum(schedulers.values(), [])))
        if runner._resume and schedulers and built:
            wrappers = dict(each_wrapper(runner.optim_wrapper))
            self._start = {
                name: get_start(wrappers[name], found)
                for name, found in schedulers.items()
            }

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Compare, or put the config's schedules in the place of the checkpoint's.

        Args:
            runner (Runner): The runner.
            checkpoint (dict): What was loaded; changed in place.
        """
        saved = by_optimizer(checkpoint.get('param_schedulers'))
        if not self._start or not saved:
            self._start = {}
        elif self.rebuild:
            states = {name: states for name, (_, states) in self._start.items()}
            checkpoint['param_schedulers'] = states.get('', states)
        else:
            self._compare(runner, saved)
            self._start = {}

    def _compare(self, runner: Runner, saved: dict[str, list]) -> None:
        """Say what goes on otherwise than the config says; refuse what cannot."""
        loop, lines = runner.train_loop, []
        fresh = {name: states for name, (_, states) in self._start.items()}
        count = {name: len(states) for name, states in saved.items()}
        same = count == {name: len(states) for name, states in fresh.items()}
        for name, states in fresh.items() if same else ():
            built = by_optimizer(runner.param_schedulers)[name]
            for i, (old, new) in enumerate(zip(saved[name], states)):
                found = differences(old, new)
                if found is None:
                    same = False
                elif found:
                    end = loop.max_epochs if old['by_epoch'] else loop.max_iters
                    label = f'{name}.{i}' if name else str(i)
                    kind = f'{type(built[i]).__name__} ({label})'
                    lines.append(describe(kind, old, found, end))
        if not same:
            raise TrainingRefused(
                'resume: the checkpoint holds schedules of another number or kind than '
                'param_scheduler of the config; set it back, or build them anew: '
                f'{_REMEDY}.'
            )
        if lines:
            text = ''.join(f'\n  {line}' for line in lines)
            print_log(
                f'The schedules are those of the checkpoint:{text}\n'
                f'To follow the config instead: {_REMEDY}.',
                logger='current',
                level=logging.WARNING,
            )

    def before_train(self, runner: Runner) -> None:
        """Bring rebuilt schedules to where the run stands.

        Args:
            runner (Runner): The runner.
        """
        start, self._start = self._start, {}
        if not start or not self.rebuild:
            return
        length = max(runner.max_iters // max(runner.max_epochs, 1), 1)
        wrappers: dict[str, Any] = dict(each_wrapper(runner.optim_wrapper))
        for name, found in by_optimizer(runner.param_schedulers).items():
            replay(
                wrappers[name], found, start[name], runner.epoch, runner.iter, length
            )
        print_log(
            f'The schedules are those of the config, at iteration {runner.iter}.',
            logger='current',
        )
