"""What a process knows of its device, of other processes and of its log."""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import Tensor, distributed

from ..tier import needs_training


def get_device() -> str:
    """The kind of device that there is: 'cuda', 'mps' or 'cpu'."""
    if torch.cuda.is_available():
        return 'cuda'
    return 'mps' if torch.backends.mps.is_available() else 'cpu'


def is_distributed() -> bool:
    """Whether several processes work together."""
    return distributed.is_available() and distributed.is_initialized()


def get_rank() -> int:
    """Number of this process."""
    return distributed.get_rank() if is_distributed() else 0


def get_world_size() -> int:
    """Number of all processes."""
    return distributed.get_world_size() if is_distributed() else 1


def is_main_process() -> bool:
    """Whether this process is the first."""
    return get_rank() == 0


def barrier() -> None:
    """Wait for the other processes."""
    if is_distributed():
        distributed.barrier()


def get_local_rank() -> int:
    """Number of this process on its machine.

    Raises:
        MissingExtra: If there are several.
    """
    if get_world_size() > 1:
        raise needs_training('Work of several processes')
    return 0


def all_reduce(data: Tensor, op: str = 'sum') -> None:
    """Sum up over all processes, of which there is one.

    Raises:
        MissingExtra: If there are several.
    """
    get_local_rank()


def print_log(msg: Any, logger: Any = None, level: int = logging.INFO) -> None:
    """Log a message of this package, whatever logger mmengine would take."""
    logging.getLogger('mergevq_mm').log(level, msg)


def is_in_run() -> bool:
    """False: nothing trains here."""
    return False


def current_iteration() -> int:
    """Number of the current training iteration: there is no run."""
    return 0
