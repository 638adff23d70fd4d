"""Modules in distributed wrappers, and the end of a distributed run."""

from __future__ import annotations

import gc
from typing import TypeVar

from torch import distributed

Module = TypeVar('Module')


def unwrap(module: Module) -> Module:
    """Take a module out of its wrapper, distributed or for augmented tests.

    Args:
        module (nn.Module): A module or a wrapped module.

    Returns:
        nn.Module: The module itself.
    """
    # Heavy, and this room is light.
    from ..base.module import BaseTTAModel, is_model_wrapper

    while is_model_wrapper(module) or isinstance(module, BaseTTAModel):
        inner: Module = module.module
        module = inner
    return module


def end_process_group() -> None:
    """Wait for the other ranks and end the default process group, if there is one.

    A thread of gloo that drops its last tensor while the interpreter shuts down aborts
    the process (``terminate called without an active exception``), and the launcher
    then reports a run as failed whose work was done. Call it when a run has succeeded
    and neither runner nor data-parallel wrapper is referred to any longer: each of them
    keeps those threads alive, even when the group is destroyed.
    """
    if distributed.is_available() and distributed.is_initialized():
        gc.collect()  # wrappers stand in reference cycles
        distributed.barrier()
        distributed.destroy_process_group()
