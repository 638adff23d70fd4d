"""Distributed runs on CPUs, where mmengine's launchers would call CUDA."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any


def has_accelerator() -> bool:
    """Tell whether mmengine's launchers have a device of their own to talk to."""
    import torch
    from mmengine.device import is_mlu_available, is_musa_available, is_npu_available

    return (
        torch.cuda.is_available()
        or is_mlu_available()
        or is_musa_available()
        or is_npu_available()
    )


def init_dist_without_cuda() -> bool:
    """Initialise gloo where mmengine's launchers would call CUDA.

    Covers ``launcher='pytorch'`` and ``'slurm'``. DDP also wants ``device_ids=None``
    on CPUs: see :func:`mergevq_mm.utils.config.adapt_to_device`.

    Returns:
        bool: Whether the launchers were replaced.
    """
    if has_accelerator():
        return False
    utils = sys.modules['mmengine.dist.utils']
    utils._init_dist_pytorch = _init_pytorch
    utils._init_dist_slurm = _init_slurm
    return True


def _init_pytorch(backend: str, init_backend: str = 'torch', **kwargs: Any) -> None:
    import torch

    torch.distributed.init_process_group(backend='gloo', **kwargs)


def _init_slurm(
    backend: str,
    port: int | None = None,
    init_backend: str = 'torch',
    **kwargs: Any,
) -> None:
    environ = os.environ
    environ['RANK'] = environ['SLURM_PROCID']
    environ['WORLD_SIZE'] = environ['SLURM_NTASKS']
    environ['LOCAL_RANK'] = environ.get('SLURM_LOCALID', '0')
    if port is not None:
        environ['MASTER_PORT'] = str(port)
    environ.setdefault('MASTER_PORT', '29500')
    if 'MASTER_ADDR' not in environ:
        hosts = subprocess.check_output(
            ['scontrol', 'show', 'hostname', environ['SLURM_NODELIST']], text=True
        )
        environ['MASTER_ADDR'] = hosts.split()[0]
    _init_pytorch(backend, **kwargs)
