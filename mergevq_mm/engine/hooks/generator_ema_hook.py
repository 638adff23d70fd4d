"""Exponential moving average of the generator side, one update an optimizer step.

Differences to ``mmengine.EMAHook``, which averages the whole model at every
iteration and deep-copies it:

- The average covers the parts named in ``model.GENERATOR_PARTS``; discriminator,
  teacher and perceptual network are not in it.
- It holds copies of parameters and buffers only, so that nothing that a module keeps
  beside them (frozen networks, caches) is duplicated.
- It moves when the generator's optimizer has really stepped: not in the middle of
  gradient accumulation, not after a skipped NaN batch, not where the fp16 loss scaler
  dropped the step.
- Before the first optimizer step the average *is* the model. Nothing is swapped then,
  which also makes ``tools/test.py`` on a saved checkpoint do no extra work.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

import torch
from mmengine.hooks import EMAHook
from mmengine.logging import print_log
from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.registry import MODELS as ROOT_MODELS
from mmengine.runner import Runner
from torch import nn

from mergevq_mm.registry import HOOKS
from mergevq_mm.utils.distributed import unwrap

from .run_state_hook import unwrap_names


def generator_view(model: nn.Module, parts: Iterable[str]) -> nn.ModuleDict:
    """View parts of a model as one module; nothing is copied.

    Args:
        model (nn.Module): The unwrapped model; its parts may be wrapped.
        parts (Iterable[str]): Attribute names. Those that the model does not have, or
            that are None, are left out.

    Returns:
        nn.ModuleDict: The parts, so that parameter names equal the model's.

    Raises:
        ValueError: If no part is there.
    """
    found = {name: getattr(model, name, None) for name in parts}
    found = {name: unwrap(part) for name, part in found.items() if part is not None}
    if not found:
        raise ValueError(
            f'parts={list(parts)} names no part of {type(model).__name__}; give names '
            'of its submodules.'
        )
    return nn.ModuleDict(found)


def copy_tensors(module: nn.Module, memo: dict[int, Any] | None = None) -> nn.Module:
    """Copy a module's parameters and buffers into a tree of plain modules.

    The tree has the same names and the same order, and nothing else. Parameters and
    modules that are shared stay shared.

    Args:
        module (nn.Module): The source.
        memo (dict[int, Any], optional): Copies that exist already, by the source's
            id. Defaults to None.

    Returns:
        nn.Module: The tree; it cannot be called.
    """
    memo = {} if memo is None else memo
    if id(module) in memo:
        return memo[id(module)]
    tree = memo[id(module)] = nn.Module()
    for name, parameter in module._parameters.items():
        if parameter is not None and id(parameter) not in memo:
            copy = parameter.detach().clone()
            memo[id(parameter)] = nn.Parameter(copy, requires_grad=False)
        tree.register_parameter(
            name, None if parameter is None else memo[id(parameter)]
        )
    for name, buffer in module._buffers.items():
        tree.register_buffer(
            name,
            None if buffer is None else buffer.detach().clone(),
            persistent=name not in module._non_persistent_buffers_set,
        )
    for name, child in module._modules.items():
        if child is not None:
            tree.add_module(name, copy_tensors(child, memo))
    return tree


@HOOKS.register_module()
class GeneratorEMAHook(EMAHook):
    r"""Average the weights of the generator side.

    .. math::
        \bar\theta_1 = \theta_1, \qquad
        \bar\theta_t = (1 - m)\,\bar\theta_{t-1} + m\,\theta_t

    where :math:`t` counts steps of the generator's optimizer. Validation and test use
    the average. A checkpoint's ``state_dict`` holds the average (for deployment),
    ``ema_state_dict`` the raw weights and the count; resuming swaps them back.

    Args:
        momentum (float): The share :math:`m` of the new weights, in (0, 1); the
            paper's decay 0.999 is 0.001. Defaults to 0.001.
        parts (Sequence[str], optional): Names of the averaged parts. None takes
            ``model.GENERATOR_PARTS``. Defaults to None.
        optimizer (str): Key of the generator's wrapper in an ``OptimWrapperDict``;
            without effect where there is a single optimizer. Defaults to
            ``'generator'``.
        strict_load (bool): Whether a resumed average must have exactly the model's
            names. Defaults to True.
        ema_type (str): Kind of the average. Defaults to ours, which has the numbers of
            mmengine's ``ExponentialMovingAverage``.
        **kwargs: Further arguments of :class:`mmengine.hooks.EMAHook` and of its
            average (``interval``, ``begin_iter``, ``begin_epoch`` …).

    Raises:
        ValueError: If ``momentum`` is out of range; in a run, if the model has none of
            the parts or the optimizer's key is unknown.
    """

    def __init__(
        self,
        momentum: float = 0.001,
        parts: Iterable[str] | None = None,
        optimizer: str = 'generator',
        strict_load: bool = True,
        ema_type: str = 'mergevq_mm.MovingAverage',
        **kwargs: Any,
    ) -> None:
        if not 0.0 < momentum < 1.0:
            raise ValueError(
                f'momentum={momentum} is not in (0, 1); it is the share of the new '
                'weights, 0.001 for a decay of 0.999.'
            )
        super().__init__(ema_type, strict_load, momentum=momentum, **kwargs)
        self.parts = None if parts is None else tuple(parts)
        self.optimizer = optimizer
        self._model: nn.Module | None = None
        self.src_model: nn.ModuleDict | None = None
        self.ema_model: nn.Module | None = None
        self._new_steps = 0
        self._handle: Any = None

    # ---- building -----------------------------------------------------------

    def before_run(self, runner: Runner) -> None:
        """Find the parts; the copy is made when training or resuming needs it.

        A test that follows the training in one process keeps the average.

        Args:
            runner (Runner): The runner.
        """
        model = unwrap(runner.model)
        parts = getattr(model, 'GENERATOR_PARTS', None)
        parts = parts if self.parts is None else self.parts
        if parts is None:
            raise ValueError(
                f'parts=None, but {type(model).__name__} has no GENERATOR_PARTS; name '
                'the averaged parts.'
            )
        if self._model is not model:
            self._model, self.ema_model = model, None
        self.src_model = generator_view(model, parts)

    def _build_average(self) -> None:
        """Copy the parts' tensors into mmengine's average."""
        if self.ema_model is None:
            tree = copy_tensors(self.src_model)
            self.ema_model = ROOT_MODELS.build(
                self.ema_cfg, default_args=dict(model=tree)
            )

    def _averaged(self) -> bool:
        """Whether the average differs from the model by now."""
        return self.ema_model is not None and int(self.ema_model.steps) > 0

    def before_train(self, runner: Runner) -> None:
        """Make the average and start counting optimizer steps.

        Args:
            runner (Runner): The runner.
        """
        super().before_train(runner)
        self._build_average()
        wrapper: OptimWrapper | OptimWrapperDict = runner.optim_wrapper
        if isinstance(wrapper, OptimWrapperDict):
            if self.optimizer not in wrapper.optim_wrappers:
                raise ValueError(
                    f'optimizer={self.optimizer!r} is not one of the optimizer '
                    f"wrappers {list(wrapper.optim_wrappers)}; name the generator's."
                )
            wrapper = wrapper[self.optimizer]
        self._new_steps = 0
        # Steps are counted where they happen: whatever keeps the optimizer from
        # stepping (accumulation, loss scaling, a skipped batch) is respected.
        self._handle = wrapper.optimizer.register_step_post_hook(self._count_step)

    def _count_step(self, *_: Any) -> None:
        """Note a step of the generator's optimizer."""
        self._new_steps += 1

    def after_train(self, runner: Runner) -> None:
        """Stop counting.

        Args:
            runner (Runner): The runner.
        """
        if self._handle is not None:
            self._handle.remove()
            self._handle = None

    # ---- averaging ----------------------------------------------------------

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Any = None,
        outputs: dict | None = None,
    ) -> None:
        """Move the average if the generator's optimizer stepped.

        Args:
            runner (Runner): The runner.
            batch_idx (int): The batch's index in the epoch.
            data_batch (Any): Unused. Defaults to None.
            outputs (dict, optional): Unused. Defaults to None.
        """
        stepped, self._new_steps = self._new_steps > 0, 0
        if stepped and self._ema_started(runner):
            self.ema_model.update_parameters(self.src_model)

    @torch.no_grad()
    def _swap_ema_parameters(self) -> None:
        """Swap the model's weights with the average, where there is one."""
        if self._averaged():
            super()._swap_ema_parameters()

    # ---- checkpoints --------------------------------------------------------

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Put the average into ``state_dict``, the raw weights into its own entry.

        Args:
            runner (Runner): The runner.
            checkpoint (dict): What is about to be written.
        """
        self._build_average()
        if not self._averaged():
            self._copy_source()
        # RunStateHook, where it is used, has done so already.
        weights = unwrap_names(runner, checkpoint['state_dict'])
        checkpoint['state_dict'] = weights
        state = self.ema_model.state_dict()
        checkpoint['ema_state_dict'] = {name: v.cpu() for name, v in state.items()}
        self._swap_ema_state_dict(checkpoint)

    @torch.no_grad()
    def _copy_source(self) -> None:
        """Set the average to the model's present weights and buffers."""
        source = self.src_model.state_dict()
        for name, value in self.ema_model.module.state_dict().items():
            value.copy_(source[name])

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Take up the average of a resumed run.

        Args:
            runner (Runner): The runner.
            checkpoint (dict): What was read; ``state_dict`` gets the raw weights back.
        """
        self.ema_model = None  # without more, it starts again from what is loaded
        if not runner._resume:
            return
        if 'ema_state_dict' not in checkpoint:
            print_log(
                'The checkpoint has no `ema_state_dict`: the moving average starts '
                'again from its `state_dict`.',
                logger='current',
                level=logging.WARNING,
            )
            return
        self._build_average()
        self._swap_ema_state_dict(checkpoint)
        self.ema_model.load_state_dict(
            checkpoint['ema_state_dict'], strict=self.strict_load
        )
