"""Compiled parts, captured ones and channels-last weights for a training or a test."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import nn

from mergevq_mm.models.utils.graphed_methods import use_graphs
from mergevq_mm.models.utils.norm_silu import fuse_norms
from mergevq_mm.registry import HOOKS
from mergevq_mm.utils.compiling import recompile_limit
from mergevq_mm.utils.distributed import unwrap

RECOMPILE_LIMIT = 64  # one graph for each K and each image size


@HOOKS.register_module()
class SpeedHook(Hook):
    """Prepares a model before the first step; the results stay the same.

    Names of weights and the format of checkpoints do not change, so that it can be
    added to a run that is resumed. bfloat16 is a matter of the optimizer wrapper
    (:class:`~mergevq_mm.engine.Bf16OptimWrapper`) and of ``test_cfg.fp16``.

    mmengine's own ``compile=True`` compiles the whole ``train_step``, with optimizers
    and logs in it; here the networks alone are compiled.

    Args:
        compile (bool | dict): Whether to compile, or the arguments of
            ``torch.compile``. Each K has its own graph, made when it first comes up.
            Defaults to False.
        parts (Sequence[str]): The model's parts to compile; those that it lacks are
            passed over. Defaults to encoder, decoder, discriminator and, of a
            generator, transformer.
        channels_last (bool): Whether to keep the weights of convolutions in
            channels-last order; on a GPU, norm and activation are compiled to one. The
            runner of ``tools/train.py`` does so before several processes lay out their
            buckets of gradients (see :func:`asks_channels_last`); another one's do it
            anew, in that order, after the first step. Defaults to False.
        graph (bool): Whether blocks that do not learn run as CUDA graphs, one for each
            shape; see :func:`prepare`. Defaults to False.

    Raises:
        ValueError: If nothing is asked for; when the run begins, if the model has none
            of the parts.
    """

    priority = 'VERY_LOW'  # after the averages have copied the model

    def __init__(
        self,
        compile: bool | Mapping[str, Any] = False,
        parts: Sequence[str] = ('backbone', 'decoder', 'discriminator', 'transformer'),
        channels_last: bool = False,
        graph: bool = False,
    ) -> None:
        if compile is False and not channels_last and not graph:
            raise ValueError(
                'SpeedHook has compile=False, channels_last=False and graph=False; '
                'switch one on or remove the hook.'
            )
        self.compile = {} if compile is True else compile
        self.parts = tuple(parts)
        self.channels_last, self.graph = channels_last, graph

    def before_train(self, runner: Runner) -> None:
        """Prepare the model."""
        settings = (self.compile, self.parts, self.channels_last, self.graph)
        prepare(runner.model, *settings)

    def before_test(self, runner: Runner) -> None:
        """Prepare the model."""
        self.before_train(runner)


def prepare(
    model: nn.Module,
    compile: bool | Mapping[str, Any] = False,
    parts: Sequence[str] = (),
    channels_last: bool = False,
    graph: bool = False,
) -> nn.Module:
    """Compile or capture parts of a model in place, and turn its convolutions' weights.

    Args:
        model (nn.Module): The model; changed in place.
        compile (bool | Mapping): False, or the arguments of ``torch.compile``.
        parts (Sequence[str]): What to compile. Defaults to ().
        channels_last (bool): Also compiles norm and activation of convolutions on a
            GPU, to keep that layout between them. Defaults to False.
        graph (bool): On a GPU, run an encoder's blocks as CUDA graphs where nothing
            learns: a shape is captured when it comes for the second time. Results stay
            the same. Defaults to False.

    Returns:
        nn.Module: The same model.

    Raises:
        ValueError: If it has none of the parts to compile.
    """
    model = unwrap(model)
    if channels_last:
        fuse_norms(model.to(memory_format=torch.channels_last))
        _allow_recompiling()
    if graph:
        use_graphs(model)
    if compile is False:
        return model
    found = [getattr(model, name, None) for name in parts]
    found = [part for part in found if isinstance(part, nn.Module)]
    if not found:
        raise ValueError(
            f'parts={list(parts)} of SpeedHook name nothing of '
            f'{type(model).__name__}; choose of '
            f'{[name for name, _ in model.named_children()]}.'
        )
    _allow_recompiling()
    for part in found:
        part.compile(**({} if compile is True else dict(compile)))
    return model


def asks_channels_last(cfg: Mapping[str, Any]) -> bool:
    """Whether a config has a :class:`SpeedHook` that turns convolutions.

    Args:
        cfg (Mapping): Of a run.
    """
    hooks = [
        *(cfg.get('default_hooks') or {}).values(),
        *(cfg.get('custom_hooks') or []),
    ]
    return any(
        str(hook.get('type')).endswith('SpeedHook') and hook.get('channels_last')
        for hook in hooks
        if isinstance(hook, Mapping)
    )


def _allow_recompiling() -> None:
    """Let dynamo make a graph for each K, where it would give up after eight."""
    config, name = torch._dynamo.config, recompile_limit()
    setattr(config, name, max(getattr(config, name), RECOMPILE_LIMIT))
