"""Islands of float32 in mixed-precision training."""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch import Tensor


def no_autocast(tensor: Tensor) -> contextlib.AbstractContextManager[Any]:
    """Turn autocast off on the tensor's device; the meta device has none.

    The caller brings its tensors to float32 itself. Compilers see through it: not all
    can trace torch's own question whether a device has autocast. ONNX knows none.

    Args:
        tensor (Tensor): Anything on the device of the computation.
    """
    if tensor.is_meta or torch.onnx.is_in_onnx_export():
        return contextlib.nullcontext()
    return torch.autocast(tensor.device.type, enabled=False)
