"""Checkpoints that hold the whole state of a run, in plain types."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from mmengine.dataset import InfiniteSampler
from mmengine.dist import all_gather_object, get_rank, get_world_size
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.model import is_model_wrapper
from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.runner import BaseLoop, EpochBasedTrainLoop, Runner

from mergevq_mm.registry import HOOKS
from mergevq_mm.utils.checkpoint import check_state_dict_matches, get_state_dict
from mergevq_mm.utils.checkpoint_format import MARK, format_mark
from mergevq_mm.utils.distributed import unwrap

from ..accumulation import get_accumulation, set_accumulation
from ..config_changes import (
    ConfigChange,
    check_optimizers_fit,
    check_weights_fit,
    config_changes,
    plain_config,
)
from ..data_position import (
    ResumedIterator,
    ResumedLoader,
    batches_done,
    get_data_state,
    sampler_of,
    set_sampler_seed,
)
from ..elastic import PieceCollate, PiecewiseStep, keep_step
from ..first_step import check_steps, refusing
from ..plain_types import from_plain, to_plain
from ..random_state import get_rng_state, set_rng_state
from ..resume_state import check_resumable
from ..sample_seeds import seed_loop

# What this hook adds; it is plain already.
_OWN = {'state_dict', 'rng_states', 'accumulation', 'data_state', 'run_config', MARK}


@HOOKS.register_module()
class RunStateHook(Hook):
    """Makes a resumed run equal to one that was never stopped.

    Saving: what mmengine stores as objects (``HistoryBuffer``, numpy values) becomes
    plain, so that files load under ``weights_only=True``. Added are the random states
    of python, numpy, torch and CUDA of every rank; where the run stands in its data;
    where a gradient accumulation stands, with the gradients that wait for its end; the
    config; and the number of this format. Names lose the ``module.`` of wrapped parts.

    Loading: the reverse, and a checkpoint of which no key fits the model is refused.
    Resuming goes on in the middle of an epoch too, with the next batch. It prints what
    the config has changed since, and how many samples a step takes if that changed;
    weights or optimizers of another shape are an error that names the setting.

    Validation draws random numbers too (each ``DataLoader`` a seed), and a resumed
    run does not repeat the validation after the checkpoint; so it gets its own
    stream here: states are kept before it and put back after it.

    On a CPU the equality is exact, bit for bit, for epoch-based and iteration-based
    loops, with any number of data workers: these draw by sample
    (:mod:`~mergevq_mm.engine.sample_seeds`), as their streams cannot be saved.

    The priority is VERY_HIGH: loaded content is decoded before other hooks look at
    it, and the states are put back before anything in the first epoch draws.
    With several ranks use :class:`SafeCheckpointHook`, which calls :meth:`collect`
    on all of them: mmengine calls ``before_save_checkpoint`` on the first only.
    """

    priority = 'VERY_HIGH'

    def __init__(self) -> None:
        self._before_val: dict[str, Any] | None = None
        self._collected: list[dict[str, Any]] | None = None
        self._loaded: list[dict[str, Any]] | None = None
        self._accumulation: dict[str, dict[str, Any]] | None = None
        self._data_state: dict[str, Any] | None = None
        self._batches = 0  # of the current epoch, used by now
        self._offset = 0  # samples used beyond these, see get_data_state
        self._piece = 0  # samples of a piece, where batches are cut up

    # ---- saving -------------------------------------------------------------

    def collect(self, runner: Runner) -> None:
        """Gather random states and waiting gradients of all ranks for the next save.

        Has to be called on every rank.

        Args:
            runner (Runner): The runner of the training process.
        """
        state = self._before_val or get_rng_state()
        self._collected = all_gather_object(state)
        self._accumulation = get_accumulation(runner.optim_wrapper)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Make the content plain and add the state of the run.

        Args:
            runner (Runner): The runner of the training process.
            checkpoint (dict): What is about to be saved; changed in place.
        """
        states = self._collected or [self._before_val or get_rng_state()]
        self._collected = None
        for key in set(checkpoint) - {'state_dict'}:
            checkpoint[key] = to_plain(checkpoint[key], key)
        checkpoint['state_dict'] = unwrap_names(runner, checkpoint['state_dict'])
        checkpoint['rng_states'] = states
        if self._accumulation is None and get_world_size() == 1:
            self._accumulation = get_accumulation(runner.optim_wrapper)
        checkpoint['accumulation'] = self._accumulation or {}
        self._accumulation = None
        checkpoint['data_state'] = self._position(runner, self._batches)
        checkpoint[MARK] = format_mark()
        checkpoint['run_config'] = plain_config(runner.cfg.to_dict())

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Any = None,
        outputs: dict | None = None,
    ) -> None:
        """Count the batches of the epoch.

        Args:
            runner (Runner): The runner of the training process.
            batch_idx (int): The batch's index in the epoch.
            data_batch (Any): Unused. Defaults to None.
            outputs (dict, optional): Unused. Defaults to None.
        """
        self._batches = batch_idx + 1

    def after_train_epoch(self, runner: Runner) -> None:
        """Begin to count anew, before the checkpoint of the epoch is written.

        Args:
            runner (Runner): The runner of the training process.
        """
        self._batches = self._offset = 0
        loop = runner.train_loop
        if isinstance(getattr(loop, 'dataloader', None), ResumedLoader):
            loop.dataloader = loop.dataloader.loader
            del loop.run_iter  # the class's own again

    def _position(self, runner: Runner, batches: int) -> dict[str, Any]:
        """Where the run stands in its data after some batches of the epoch."""
        return get_data_state(runner, batches, self._offset, self._piece)

    # ---- loading ------------------------------------------------------------

    @refusing()
    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Check and decode the content; keep the states for the first epoch.

        Args:
            runner (Runner): The runner of the training, validation or test process.
            checkpoint (dict): What was loaded; changed in place.

        Raises:
            TrainingRefused: If no key fits the model, or a shape does not; in a test,
                if a weight is missing; on resuming, if anything is missing or does not
                fit. A ValueError.
        """
        model = unwrap(runner.model)
        if runner._resume:  # stricter still, and it says what has changed
            self._check_resumed(runner, checkpoint)
        testing = not isinstance(runner._train_loop, BaseLoop)
        check_state_dict_matches(
            model, checkpoint, complete=testing and not runner._resume
        )
        for key in set(checkpoint) - _OWN:
            checkpoint[key] = from_plain(checkpoint[key])
        if not runner._resume:
            return
        self._accumulation = checkpoint.get('accumulation')
        saved = self._data_state = checkpoint.get('data_state')
        if saved is not None:
            self._piece = keep_step(runner, saved, get_data_state(runner, 0))
        states = checkpoint.get('rng_states')
        count = len(states or ())
        if count != get_world_size():
            print_log(
                f'The checkpoint holds the random states of {count} processes and this '
                f'run has {get_world_size()}: its random numbers will differ from '
                'those of an uninterrupted run.',
                logger='current',
                level=logging.WARNING,
            )
        self._loaded = states or None

    def _check_resumed(self, runner: Runner, checkpoint: Mapping[str, Any]) -> None:
        """Print what the config has changed; refuse what cannot be resumed."""
        check_resumable(checkpoint, schedules=bool(runner.param_schedulers))
        checkpoint['meta'].pop('config', None)  # mmengine would run it as python
        saved = checkpoint.get('run_config')
        changes: list[ConfigChange] = []
        if saved:  # empty where the runner was not built from a config
            changes = config_changes(saved, plain_config(runner.cfg.to_dict()))
        if changes:
            lines = ''.join(f'\n  {change}' for change in changes)
            print_log(
                'The config is not the one that the checkpoint was written with '
                f'(setting: checkpoint -> now):{lines}',
                logger='current',
                level=logging.WARNING,
            )
        model = unwrap(runner.model)
        check_weights_fit(model, get_state_dict(checkpoint), changes)
        if isinstance(runner.optim_wrapper, (OptimWrapper, OptimWrapperDict)):
            check_optimizers_fit(
                runner.optim_wrapper, checkpoint.get('optimizer'), changes
            )
        by_epoch = (checkpoint.get('data_state') or {}).get('by_epoch')
        now = isinstance(runner.train_loop, EpochBasedTrainLoop)
        if by_epoch is not None and by_epoch != now:
            raise ValueError(
                f'resume: train_cfg.by_epoch={now}, but the checkpoint was written by '
                f'a run with by_epoch={by_epoch}; set it back, or start a new run with '
                'load_from and without resume.'
            )

    def before_train(self, runner: Runner) -> None:
        """Tell each of several optimizers where the run stands and where it ends.

        A training whose data make no batch is refused: it would end with success and
        random weights.

        Gradient accumulation needs it, to go on in step and to use the last batches;
        mmengine's ``OptimWrapperDict`` passes it on to none of them. Each logs the norm
        of its gradients under a name of its own, as its rate.

        Args:
            runner (Runner): The runner of the training process.

        Raises:
            ValueError: If there is no batch, or nothing to train.
        """
        loop = runner.train_loop
        check_steps(loop.dataloader, loop.max_epochs, loop.max_iters)
        seed_loop(loop)
        if isinstance(getattr(loop.dataloader, 'collate_fn', None), PieceCollate):
            runner.model.train_step = PiecewiseStep(runner.model.train_step)
        if isinstance(runner.optim_wrapper, OptimWrapperDict):
            for name, wrapper in runner.optim_wrapper.items():
                wrapper.initialize_count_status(
                    runner.model, runner.iter, runner.max_iters
                )
                own = getattr(wrapper, 'grad_name', None)
                if own is not None and not own.startswith(f'{name}.'):
                    wrapper.grad_name = f'{name}.{own}'
        if self._accumulation is not None:
            set_accumulation(runner.optim_wrapper, self._accumulation)
            self._accumulation = None

    def before_train_epoch(self, runner: Runner) -> None:
        """Go to the next batch and put the random states back, once.

        Args:
            runner (Runner): The runner of the training process.
        """
        saved, self._data_state = self._data_state, None
        state = None
        if self._loaded is not None:
            states, self._loaded = self._loaded, None
            state = states[get_rank() % len(states)]
        if saved is None and state is None:
            return
        loop, done, rest = runner.train_loop, 0, 0
        if saved is not None:
            set_sampler_seed(runner.train_dataloader, saved['seed'])
            now = self._position(runner, 0)
            done, rest = batches_done(saved, now)
        if hasattr(loop, 'dataloader_iterator'):
            # This loop takes `iter` batches before it trains.
            done = loop.iter if saved is None else done
            endless = isinstance(sampler_of(runner.train_dataloader), InfiniteSampler)
            rest = rest if endless else 0
            loop.dataloader_iterator = ResumedIterator(
                loop.dataloader_iterator, loop.iter, done, state, rest
            )
            if saved is not None:  # it counts its batches from `iter` on
                size = now['batch_size'] * now['world_size']
                self._offset = (done - loop.iter) * size + rest
        elif isinstance(loop, EpochBasedTrainLoop) and (
            done or rest or _stay(loop.dataloader)
        ):
            self._offset = rest
            self._begin_within(runner, done, state, rest)
        elif state is not None:
            set_rng_state(state)

    def _begin_within(
        self, runner: Runner, done: int, state: Mapping[str, Any] | None, rest: int
    ) -> None:
        """Let the epoch begin after some batches and samples, and count on."""
        loop = runner.train_loop
        self._batches = done
        if done:
            print_log(
                f'Epoch {runner.epoch + 1} goes on after {done} of its '
                f'{len(loop.dataloader)} batches; they are not read again.',
                logger='current',
            )
        loop.dataloader = ResumedLoader(loop.dataloader, done, state, rest)
        run_iter = loop.run_iter
        loop.run_iter = lambda idx, batch: run_iter(idx + done, batch)

    # ---- validation ---------------------------------------------------------

    def before_val(self, runner: Runner) -> None:
        """Keep the random states of the training.

        Args:
            runner (Runner): The runner of the validation process.
        """
        self._before_val = get_rng_state()

    def before_val_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None
    ) -> None:
        """Undo the draw of workers that stay, which are started in one validation.

        Args:
            runner (Runner): The runner of the validation process.
            batch_idx (int): The batch's index in the epoch.
            data_batch (Any): Unused. Defaults to None.
        """
        loader = getattr(runner.val_loop, 'dataloader', None)
        if batch_idx == 0 and self._before_val is not None and _stay(loader):
            set_rng_state(self._before_val)

    def after_val(self, runner: Runner) -> None:
        """Put the random states of the training back.

        Args:
            runner (Runner): The runner of the validation process.
        """
        if self._before_val is not None:
            set_rng_state(self._before_val)
        self._before_val = None


def _stay(loader: Any) -> bool:
    """Whether workers live on from pass to pass: the first one draws their seed."""
    return getattr(loader, 'persistent_workers', False)


def unwrap_names(runner: Runner, state_dict: dict[str, Any]) -> dict[str, Any]:
    """Drop the ``module.`` of parts that are wrapped one by one.

    ``MMSeparateDistributedDataParallel`` wraps the children of the model, so that
    mmengine saves ``backbone.module.x`` and then does not find it on load.

    Args:
        runner (Runner): The runner whose model was saved.
        state_dict (dict[str, Any]): Its weights; unchanged if nothing is wrapped.

    Returns:
        dict[str, Any]: The weights under the names of the unwrapped model.
    """
    model = unwrap(runner.model)
    wrapped = [n for n, m in model.named_modules() if n and is_model_wrapper(m)]
    for name in wrapped:
        old = f'{name}.module.'
        for key in [key for key in state_dict if key.startswith(old)]:
            state_dict[f'{name}.{key[len(old) :]}'] = state_dict.pop(key)
    return state_dict
