"""Islands of float32 in mixed-precision training."""

from __future__ import annotations

import contextlib

import torch
from torch import Tensor


def no_autocast(tensor: Tensor) -> contextlib.AbstractContextManager:
    """Turn autocast off on the tensor's device, where that device has it.

    The caller brings its tensors to float32 itself.

    Args:
        tensor (Tensor): Anything on the device of the computation.
    """
    device = tensor.device.type
    if torch.amp.is_autocast_available(device):
        return torch.autocast(device, enabled=False)
    return contextlib.nullcontext()  # such as the meta device
