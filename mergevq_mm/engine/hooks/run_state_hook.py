"""Checkpoints that hold the whole state of a run, in plain types."""

from __future__ import annotations

import logging
import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from mmengine.dist import all_gather_object, get_rank, get_world_size
from mmengine.hooks import Hook
from mmengine.logging import HistoryBuffer, print_log
from mmengine.model import is_model_wrapper
from mmengine.optim import OptimWrapperDict
from mmengine.runner import Runner

from mergevq_mm.registry import HOOKS
from mergevq_mm.utils.checkpoint import check_state_dict_matches

from ..accumulation import get_accumulation, set_accumulation

# Keys of the plain dicts that stand for objects in a checkpoint.
_ARRAY = '__ndarray__'
_HISTORY = '__history_buffer__'
_DROPPED = object()


@HOOKS.register_module()
class RunStateHook(Hook):
    """Makes a resumed run equal to one that was never stopped.

    Saving: what mmengine stores as objects (``HistoryBuffer``, numpy values) becomes
    plain, so that files load under ``weights_only=True``; the random states of
    python, numpy, torch and CUDA of every rank are added, and where a gradient
    accumulation stands, with the gradients that wait for its end; names lose the
    ``module.`` of wrapped parts. Loading: the reverse, and a checkpoint of which no key
    fits the model is refused.

    Validation draws random numbers too (each ``DataLoader`` a seed), and a resumed
    run does not repeat the validation after the checkpoint; so it gets its own
    stream here: states are kept before it and put back after it.

    On a CPU with ``num_workers=0`` the equality is exact, bit for bit, for
    epoch-based loops; workers' streams cannot be saved.

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
        """Make the content plain and add the random states.

        Args:
            runner (Runner): The runner of the training process.
            checkpoint (dict): What is about to be saved; changed in place.
        """
        states = self._collected or [self._before_val or get_rng_state()]
        self._collected = None
        for key in set(checkpoint) - {'state_dict'}:
            checkpoint[key] = to_plain(checkpoint[key], key)
        checkpoint['state_dict'] = _unwrap_names(runner, checkpoint['state_dict'])
        checkpoint['rng_states'] = states
        if self._accumulation is None and get_world_size() == 1:
            self._accumulation = get_accumulation(runner.optim_wrapper)
        checkpoint['accumulation'] = self._accumulation or {}
        self._accumulation = None

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Check and decode the content; keep the random states for the first epoch.

        Args:
            runner (Runner): The runner of the training, validation or test process.
            checkpoint (dict): What was loaded; changed in place.

        Raises:
            ValueError: If no key fits the model.
        """
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        check_state_dict_matches(model, checkpoint)
        for key in set(checkpoint) - {'state_dict', 'rng_states', 'accumulation'}:
            checkpoint[key] = from_plain(checkpoint[key])
        if not runner._resume:
            return
        self._accumulation = checkpoint.get('accumulation')
        states = checkpoint.get('rng_states')
        if states is None or len(states) != get_world_size():
            count = 0 if states is None else len(states)
            print_log(
                f'The checkpoint holds the random states of {count} processes and this '
                f'run has {get_world_size()}: its random numbers will differ from '
                'those of an uninterrupted run.',
                logger='current',
                level=logging.WARNING,
            )
            return
        self._loaded = states

    def before_train(self, runner: Runner) -> None:
        """Tell each of several optimizers where the run stands and where it ends.

        Gradient accumulation needs it, to go on in step and to use the last batches;
        mmengine's ``OptimWrapperDict`` passes it on to none of them.

        Args:
            runner (Runner): The runner of the training process.
        """
        if isinstance(runner.optim_wrapper, OptimWrapperDict):
            for wrapper in runner.optim_wrapper.values():
                wrapper.initialize_count_status(
                    runner.model, runner.iter, runner.max_iters
                )
        if self._accumulation is not None:
            set_accumulation(runner.optim_wrapper, self._accumulation)
            self._accumulation = None

    def before_train_epoch(self, runner: Runner) -> None:
        """Put the random states back, once, right before training goes on.

        Args:
            runner (Runner): The runner of the training process.
        """
        if self._loaded is None:
            return
        state, self._loaded = self._loaded[get_rank()], None
        loop = runner.train_loop
        if hasattr(loop, 'dataloader_iterator'):
            # Iteration-based loops first skip the data that was used before.
            loop.dataloader_iterator = _RestoreAfter(
                loop.dataloader_iterator, loop.iter, state
            )
        else:
            set_rng_state(state)

    def before_val(self, runner: Runner) -> None:
        """Keep the random states of the training.

        Args:
            runner (Runner): The runner of the validation process.
        """
        self._before_val = get_rng_state()

    def after_val(self, runner: Runner) -> None:
        """Put the random states of the training back.

        Args:
            runner (Runner): The runner of the validation process.
        """
        if self._before_val is not None:
            set_rng_state(self._before_val)
        self._before_val = None


class _RestoreAfter:
    """An iterator that sets random states once some items have been skipped.

    Args:
        iterator (Iterator): Where items come from.
        skip (int): Number of items to give before the states are set.
        state (dict[str, Any]): A value of :func:`get_rng_state`.
    """

    def __init__(self, iterator: Any, skip: int, state: dict[str, Any]) -> None:
        self._iterator = iterator
        self._left = skip
        self._state = state

    def __iter__(self) -> _RestoreAfter:
        return self

    def __next__(self) -> Any:
        if self._left == 0:
            set_rng_state(self._state)
        self._left -= 1
        return next(self._iterator)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._iterator, name)


def get_rng_state() -> dict[str, Any]:
    """Read the random states of this process.

    Returns:
        dict[str, Any]: States of python, numpy, torch and, where there is one, the
        current CUDA device, as numbers, lists and tensors.
    """
    version, words, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state()
    state = dict(
        python=[version, list(words), gauss],
        numpy=[name, keys.tolist(), int(position), int(has_gauss), float(cached)],
        torch=torch.get_rng_state(),
    )
    if torch.cuda.is_available():
        state['cuda'] = torch.cuda.get_rng_state()
    return state


def set_rng_state(state: Mapping[str, Any]) -> None:
    """Set the random states of this process.

    Args:
        state (Mapping[str, Any]): A value of :func:`get_rng_state`.
    """
    version, words, gauss = state['python']
    random.setstate((version, tuple(words), gauss))
    name, keys, *rest = state['numpy']
    np.random.set_state((name, np.array(keys, dtype=np.uint32), *rest))
    torch.set_rng_state(state['torch'].cpu())
    if 'cuda' in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state['cuda'].cpu())


def to_plain(value: Any, name: str = '') -> Any:
    """Turn a value into types that load under ``weights_only=True``.

    Args:
        value (Any): Anything mmengine puts into a checkpoint.
        name (str): How to name the value in warnings. Defaults to ''.

    Returns:
        Any: Numbers, strings, lists, tuples, dicts and tensors. What cannot be
        expressed by them is left out of its dict with a warning.
    """
    plain = _to_plain(value, name)
    return None if plain is _DROPPED else plain


def _to_plain(value: Any, name: str) -> Any:
    if value is None or isinstance(value, torch.Tensor):
        return value
    for kind in (bool, int, float, complex, str, bytes):  # also subclasses of them
        if isinstance(value, kind):
            return kind(value)
    if isinstance(value, np.generic):
        return _to_plain(value.item(), name)
    if isinstance(value, (torch.dtype, torch.device, torch.Size)):
        return value
    if isinstance(value, HistoryBuffer):
        logs, counts = (_to_plain(array, name) for array in value.data)
        return {_HISTORY: [logs, counts, value.max_length]}
    if isinstance(value, np.ndarray) and value.dtype.kind in 'biufc':
        return {_ARRAY: torch.from_numpy(np.array(value)), 'dtype': value.dtype.str}
    if isinstance(value, np.ndarray):
        return _to_plain(value.tolist(), name)
    if isinstance(value, Mapping):
        items = {k: _to_plain(v, f'{name}.{k}') for k, v in value.items()}
        return {k: v for k, v in items.items() if v is not _DROPPED}
    if isinstance(value, (list, tuple, set, frozenset)):
        items = [_to_plain(v, f'{name}[{i}]') for i, v in enumerate(value)]
        items = [None if v is _DROPPED else v for v in items]
        return tuple(items) if isinstance(value, tuple) else items
    print_log(
        f'"{name}" is a {type(value).__name__} and is left out of the checkpoint, '
        'which holds plain types only.',
        logger='current',
        level=logging.WARNING,
    )
    return _DROPPED


def from_plain(value: Any) -> Any:
    """Bring the objects that :func:`to_plain` replaced back.

    Args:
        value (Any): A value of :func:`to_plain`.

    Returns:
        Any: The same with ``HistoryBuffer`` and numpy arrays.
    """
    if isinstance(value, Mapping):
        if _ARRAY in value:
            return value[_ARRAY].cpu().numpy().astype(value['dtype'])
        if _HISTORY in value:
            logs, counts, max_length = value[_HISTORY]
            return HistoryBuffer(from_plain(logs), from_plain(counts), max_length)
        for key in value:
            value[key] = from_plain(value[key])
        return value
    if isinstance(value, (list, tuple)):
        return type(value)(from_plain(item) for item in value)
    return value


def _unwrap_names(runner: Runner, state_dict: dict[str, Any]) -> dict[str, Any]:
    """Drop the ``module.`` of parts that are wrapped one by one.

    ``MMSeparateDistributedDataParallel`` wraps the children of the model, so that
    mmengine saves ``backbone.module.x`` and then does not find it on load.

    Args:
        runner (Runner): The runner whose model was saved.
        state_dict (dict[str, Any]): Its weights; unchanged if nothing is wrapped.

    Returns:
        dict[str, Any]: The weights under the names of the unwrapped model.
    """
    model = runner.model.module if is_model_wrapper(runner.model) else runner.model
    wrapped = [n for n, m in model.named_modules() if n and is_model_wrapper(m)]
    for name in wrapped:
        old = f'{name}.module.'
        for key in [key for key in state_dict if key.startswith(old)]:
            state_dict[f'{name}.{key[len(old) :]}'] = state_dict.pop(key)
    return state_dict
