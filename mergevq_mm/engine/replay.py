"""Repeat a step that :mod:`.bad_step` has written, and find where it went wrong."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from mmengine.logging import MessageHub
from mmengine.optim import OptimWrapper, OptimWrapperDict
from torch import Tensor, nn

from mergevq_mm.utils.checkpoint_file import load_checkpoint_file

from .bad_step import FORMAT, scalar_losses, unpack
from .first_bad_module import bad_values, tensors_of, watching
from .plain_types import from_plain
from .random_state import set_rng_state

_COUNT = itertools.count()


class ReplayOptimWrapper(OptimWrapper):
    """An optimizer that computes gradients as the run's has, and moves nothing.

    Args:
        parameters (list[nn.Parameter]): Of its side.
        autocast (torch.dtype, optional): Precision of the forward pass. Defaults to
            None, that of the weights.
        scale (float): Of the loss. Defaults to 1.
        accumulate (int): Batches of a step. Defaults to 1.
    """

    def __init__(
        self,
        parameters: list[nn.Parameter],
        autocast: torch.dtype | None = None,
        scale: float = 1.0,
        accumulate: int = 1,
    ) -> None:
        optimizer = torch.optim.SGD(parameters, lr=0.0)
        super().__init__(optimizer, accumulative_counts=accumulate)
        self.autocast, self.scale = autocast, scale

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Autocast on the device of the parameters."""
        kind = self.param_groups[0]['params'][0].device.type
        on = self.autocast is not None
        with (
            super().optim_context(model),
            torch.autocast(kind, self.autocast, enabled=on),
        ):
            yield

    def backward(self, loss: Tensor, **kwargs: Any) -> None:
        """Gradients of the scaled loss."""
        super().backward(loss * self.scale, **kwargs)

    def step(self, **kwargs: Any) -> None:
        """Leave the weights as they are."""


@dataclass
class Replayed:
    """What repeating a step has shown.

    Attributes:
        iteration (int): Number of the step, from 0.
        losses (dict[str, float]): Of the repetition.
        batch (str, optional): What of the batch itself is not finite.
        output (str, optional): The first module whose output is not finite.
        gradient (str, optional): The first gradient that is not.
        nonfinite (bool): Whether the step came out as the recorded one.
    """

    iteration: int
    losses: dict[str, float]
    batch: str | None
    output: str | None
    gradient: str | None
    nonfinite: bool

    def cause(self) -> str:
        """The earliest of what was found, in a sentence."""
        if self.batch is not None:
            return f'The batch is not finite: {self.batch}.'
        if self.output is not None:
            return f'First output that is not finite: {self.output}.'
        losses = [name for name, value in self.losses.items() if not _finite(value)]
        if losses:
            return (
                'All outputs of modules are finite, but what is computed from them is '
                f'not: {", ".join(losses)}.'
            )
        if self.gradient is not None:
            return (
                f'All losses are finite. First gradient that is not: {self.gradient}.'
            )
        return 'All outputs, losses and gradients are finite this time.'


def read_record(path: str | os.PathLike) -> dict[str, Any]:
    """Read a file of a bad step, without running code from it.

    Args:
        path (str | PathLike): The file.

    Returns:
        dict[str, Any]: Its content.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is damaged, another kind of file, or of a later version.
    """
    record = load_checkpoint_file(path)
    number = record.get('format')
    if 'batches' not in record or not isinstance(number, int):
        raise ValueError(
            f'"{path}" is no file of a bad step; give a bad_step_<n>.pt of a work dir.'
        )
    if number > FORMAT:
        raise ValueError(
            f'"{path}" has format {number}, of mergevq_mm {record.get("version")}; '
            f'this version reads up to {FORMAT}: repeat the step with that version.'
        )
    return dict(record)


def replay(
    record: Mapping[str, Any], model: nn.Module, device: str = 'cpu'
) -> Replayed:
    """Repeat a recorded step on a model, which keeps its weights.

    Args:
        record (Mapping[str, Any]): Of :func:`read_record`. Its weights are loaded if it
            has any.
        model (BaseModel): Built from the record's config.
        device (str): Defaults to 'cpu'.

    Returns:
        Replayed: What was found.

    Raises:
        ValueError: If the weights or the optimizers do not fit the model.
    """
    if record['weights'] is not None:
        try:
            model.load_state_dict(record['weights'])
        except RuntimeError as error:
            wrong = ' '.join(str(error).split())[:300]
            raise ValueError(
                f'the weights do not fit the model ({wrong} …); build it from the '
                'config of the run, and give weights of that run.'
            ) from None
    model.to(device).train()
    wrappers = _optimizers(record['optimizers'], model)
    hub = MessageHub.get_instance(f'replay_{next(_COUNT)}')
    hub.update_info('max_iters', record['max_iters'])
    bad_batch = None
    with watching(model) as watch:
        for step in record['batches']:
            batch = unpack(from_plain(step['batch']))
            bad = (p for p, t in tensors_of(batch) if bad_values(t))
            bad_batch = bad_batch or next(bad, None)
            hub.update_info('iter', step['iter'])
            set_rng_state(step['rng'])
            log = model.train_step(batch, wrappers)
    losses = scalar_losses(log)
    nonfinite = bool(log.get('nonfinite', 0)) or not all(map(_finite, losses.values()))
    return Replayed(
        record['iter'], losses, bad_batch, watch.output, watch.gradient, nonfinite
    )


def _optimizers(
    described: Mapping[str, Mapping[str, Any]], model: nn.Module
) -> OptimWrapper | OptimWrapperDict:
    """Optimizers of the same sides, precision and accumulation, which move nothing."""
    parameters = dict(model.named_parameters())
    made = {}
    for name, one in described.items():
        unknown = [p for p in one['parameters'] if p not in parameters]
        if unknown or not one['parameters']:
            raise ValueError(
                f'the optimizer "{name}" of the step has parameters ({unknown[:3]}) '
                'that the model lacks; build it from the config of the run.'
            )
        made[name] = ReplayOptimWrapper(
            [parameters[p] for p in one['parameters']],
            one['autocast'],
            one['scale'],
            one['accumulate'],
        )
    return made[''] if '' in made else OptimWrapperDict(**made)


def _finite(value: float) -> bool:
    return value - value == 0
