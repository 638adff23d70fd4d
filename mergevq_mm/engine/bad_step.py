"""A training step whose loss or gradient was not finite, in a file that repeats it.

What the step began with is known before it: the batch, the random states, the number of
the step. The weights are those that it left alone (:mod:`..models.utils.finite`). Of
several optimizers one may have stepped although the gradients of the other were not
finite: its weights are a step further than they were.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from mmengine.device import get_device
from mmengine.dist import all_gather_object, get_rank, get_world_size
from mmengine.optim import AmpOptimWrapper, OptimWrapper
from mmengine.runner import Runner
from mmengine.runner.checkpoint import find_latest_checkpoint
from mmengine.structures import BaseDataElement
from torch import Tensor

from mergevq_mm.models.utils.finite import is_finite
from mergevq_mm.utils.distributed import unwrap
from mergevq_mm.utils.fileio import write_atomically
from mergevq_mm.version import __version__

from .accumulation import each_wrapper
from .bf16_optim_wrapper import Bf16OptimWrapper
from .config_changes import plain_config
from .elastic import Pieces
from .plain_types import to_plain
from .random_state import get_rng_state

FORMAT = 1
LIMIT = 200 * 10**6  # bytes of the files of all processes together
NAME = 'bad_step'
_SAMPLE = '__data_sample__'


class StepRecorder:
    """Remembers what the last optimizer step began with, and writes it when asked.

    To remember takes 0.08 ms of a step (AMD EPYC), for the random states are copied.
    """

    def __init__(self) -> None:
        self._batches: list[dict[str, Any]] = []

    def begin(self, runner: Runner, data_batch: Any) -> None:
        """Remember a batch, and those that the same optimizer step accumulates.

        Args:
            runner (Runner): Before the training step.
            data_batch (Any): What the step is given; not copied.
        """
        wrappers = dict(each_wrapper(runner.optim_wrapper)).values()
        if all(wrapper.should_update() for wrapper in wrappers):
            self._batches.clear()
        # Of an iteration in pieces all but the first draw other numbers when repeated.
        pieces = data_batch if isinstance(data_batch, Pieces) else [data_batch]
        state = get_rng_state()
        self._batches += [
            {'iter': runner.iter, 'rng': state, 'batch': piece} for piece in pieces
        ]

    def write(
        self,
        runner: Runner,
        outputs: Mapping[str, Any],
        scales: Mapping[str, float],
    ) -> str | None:
        """Write the step, unless the folder has one. Has to be called on all ranks.

        Processes whose own loss is not finite write; where it is on all of them, all
        write, for the gradients are those of all. Together they take ``LIMIT`` bytes:
        without the weights where these do not fit.

        Args:
            runner (Runner): After the training step.
            outputs (Mapping[str, Any]): What the step returned.
            scales (Mapping[str, float]): Of the loss scalers, by optimizer.

        Returns:
            str: What was written or why nothing was, for the log; None where other
            processes write.
        """
        folder = Path(runner.work_dir)
        found = sorted(folder.glob(f'{NAME}_*.pt'))
        bad = not all(is_finite(v) for k, v in outputs.items() if 'loss' in k)
        told = all_gather_object((bad, bool(found)))
        if any(there for _, there in told):
            there = found[0] if found else folder
            return f'"{there}" has an earlier step; delete it to have the next one.'
        writers = [rank for rank, (own, _) in enumerate(told) if own]
        writers = writers or list(range(len(told)))
        if get_rank() not in writers or not self._batches:
            return None
        name = f'{NAME}_{runner.iter + 1}'
        name += f'_rank{get_rank()}' if get_world_size() > 1 else ''
        record = self._record(runner, outputs, scales)
        return _write(record, folder / f'{name}.pt', LIMIT // len(writers))

    def _record(
        self, runner: Runner, outputs: Mapping[str, Any], scales: Mapping[str, float]
    ) -> dict[str, Any]:
        """What :func:`.replay.replay` needs."""
        from .hooks.run_state_hook import unwrap_names  # which imports this room

        model = unwrap(runner.model)
        names = {id(p): name for name, p in model.named_parameters()}
        names = {i: name.replace('.module.', '.') for i, name in names.items()}
        return {
            'format': FORMAT,
            'version': __version__,
            'torch': str(torch.__version__),
            'device': get_device(),
            'process': [get_rank(), get_world_size()],
            'iter': runner.iter,
            'max_iters': runner.max_iters,
            'batches': [{**one, 'batch': pack(one['batch'])} for one in self._batches],
            'losses': scalar_losses(outputs),
            'optimizers': {
                name: _describe(wrapper, names, scales.get(name, 1.0))
                for name, wrapper in each_wrapper(runner.optim_wrapper)
            },
            'config': plain_config(runner.cfg.to_dict()),
            'checkpoint': find_latest_checkpoint(runner.work_dir),
            'weights': unwrap_names(runner, dict(model.state_dict())),
        }


def scalar_losses(outputs: Mapping[str, Any]) -> dict[str, float]:
    """The losses among what a step returned."""
    return {
        name: value.item()
        for name, value in outputs.items()
        if 'loss' in name and isinstance(value, Tensor) and value.numel() == 1
    }


def _describe(
    wrapper: OptimWrapper, names: Mapping[int, str], scale: float
) -> dict[str, Any]:
    """What an optimizer does to the computation of the gradients."""
    autocast = None
    if isinstance(wrapper, Bf16OptimWrapper):
        autocast = torch.bfloat16
    elif isinstance(wrapper, AmpOptimWrapper):
        autocast = wrapper.cast_dtype or torch.float16
    parameters = [p for group in wrapper.param_groups for p in group['params']]
    return {
        'parameters': [names[id(p)] for p in parameters if id(p) in names],
        'autocast': autocast,
        'scale': scale,
        'accumulate': getattr(wrapper, '_accumulative_counts', 1),
    }


def _write(record: dict[str, Any], path: Path, limit: int) -> str:
    """Write a record within a number of bytes, and say what was done."""
    rest = {key: value for key, value in record.items() if key != 'weights'}
    needed, weights = size_of(rest), size_of(record['weights'])
    if needed > limit:
        return (
            f'The step is not written: its batch takes {needed / 1e6:.0f} MB, and a '
            f'file may have {limit / 1e6:.0f} MB.'
        )
    note = ''
    if needed + weights > limit:
        record = {**rest, 'weights': None}
        note = (
            f' Its weights ({weights / 1e6:.0f} MB) do not fit into the '
            f'{limit / 1e6:.0f} MB that a file may have; those of the last checkpoint '
            'stand for them.'
        )
    buffer = io.BytesIO()
    torch.save(_on_host(record), buffer)
    try:
        write_atomically(buffer.getvalue(), path)
    except OSError as error:  # the run matters more than the file
        return f'The step is not written: {error}.'
    return f'Repeat the step and find its cause: python tools/replay.py {path}{note}'


def size_of(value: Any) -> int:
    """Bytes of the tensors of a value, and about 8 for each number."""
    if isinstance(value, Tensor):
        return value.numel() * value.element_size()
    if isinstance(value, Mapping):
        return sum(map(size_of, value.values()))
    if isinstance(value, (list, tuple)):
        return sum(map(size_of, value))
    return len(value) if isinstance(value, (str, bytes)) else 8


def _on_host(value: Any) -> Any:
    """Copies that own no more memory than they show."""
    if isinstance(value, Tensor):
        return value.detach().cpu().clone()
    if isinstance(value, Mapping):
        return {key: _on_host(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(map(_on_host, value))
    return value


# ------------------------------------------------------------------------------ batches


def pack(value: Any) -> Any:
    """A batch in types that a file may hold.

    Args:
        value (Any): Tensors, numbers, lists, dicts and samples.

    Returns:
        Any: The same with dicts in the place of samples.
    """
    if isinstance(value, BaseDataElement):
        fields = {name: pack(item) for name, item in value.items()}
        meta = {name: pack(item) for name, item in value.metainfo_items()}
        return {_SAMPLE: {'meta': meta, 'fields': fields}}
    if isinstance(value, Mapping):
        return {key: pack(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [pack(item) for item in value]
    return to_plain(value, 'a value of the batch')


def unpack(value: Any) -> Any:
    """Bring a packed batch back.

    Args:
        value (Any): Of :func:`pack`.

    Returns:
        Any: With mmpretrain's samples; tuples are lists.
    """
    from mmpretrain.structures import DataSample  # heavy, and seldom needed

    if isinstance(value, Mapping) and _SAMPLE in value:
        parts = value[_SAMPLE]
        sample = DataSample(metainfo=unpack(parts['meta']))
        for name, item in parts['fields'].items():
            sample.set_field(unpack(item), name)
        return sample
    if isinstance(value, Mapping):
        return {key: unpack(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [unpack(item) for item in value]
    return value
