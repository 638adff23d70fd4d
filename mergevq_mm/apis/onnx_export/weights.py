"""Weights of a graph as float16, bfloat16 or int8; it computes in float32.

A graph holds them as they are stored and brings them to float32 when it is loaded:
it is half or a quarter as large, as fast as before, and the same on any runtime. The
numbers of int8, with a scale for each output channel, are those of
``onnxruntime.quantization``. Quantising activations too, as its ``quantize_dynamic``
does, changes what the encoder merges and the signs that are the codes.
"""

from __future__ import annotations

import copy
import importlib
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

PRECISIONS = ('fp32', 'fp16', 'bf16', 'int8')
STORED = 1024  # numbers that a weight has at least; smaller ones stay as they are

_HALVES = {'fp16': torch.float16, 'bf16': torch.bfloat16}
_LAYERS = (nn.Linear, nn.Conv2d, nn.Embedding)
Module = TypeVar('Module', bound=nn.Module)


class StoredHalf(nn.Module):
    """A weight that is stored in 16 bits.

    Args:
        dtype (torch.dtype): float16 or bfloat16.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype

    def forward(self, stored: Tensor) -> Tensor:
        """To float32."""
        return stored.float()

    def right_inverse(self, weight: Tensor) -> tuple[Tensor]:
        """From float32."""
        return (weight.to(self.dtype),)


class StoredInt8(nn.Module):
    """A weight that is stored in 8 bits and a scale for each output channel."""

    def forward(self, stored: Tensor, scale: Tensor) -> Tensor:
        """To float32."""
        return stored.float() * scale

    def right_inverse(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """From float32, O×…, to int8 and O×1×…."""
        stored, scale = int8_of(weight.detach().numpy())
        shape = (-1, *[1] * (weight.ndim - 1))
        return torch.from_numpy(stored), torch.from_numpy(scale).reshape(shape)


def int8_of(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Round each row to 255 steps between its largest number and its negative.

    Args:
        weight (np.ndarray): O×… float32.

    Returns:
        tuple[np.ndarray, np.ndarray]: O×… int8, and steps O float32.
    """
    library = importlib.import_module('onnxruntime.quantization.quant_utils')
    int8 = library.QuantType.QInt8.tensor_type
    rows = [library.quantize_data(row.ravel(), int8, symmetric=True) for row in weight]
    stored = np.stack([np.asarray(row[2], np.int8) for row in rows])
    scale = np.array([row[1] for row in rows], np.float32)
    return stored.reshape(weight.shape), scale


def with_stored_weights(module: Module, precision: str) -> Module:
    """A copy of a module whose weights are those of a smaller type.

    Args:
        module (nn.Module): On the CPU, float32.
        precision (str): Of :data:`PRECISIONS`; 'fp32' leaves the module as it is.

    Returns:
        nn.Module: It computes in float32 with what is stored.

    Raises:
        ValueError: If the precision is not known, or a weight is too large for float16.
    """
    if precision not in PRECISIONS:
        raise ValueError(
            f"precision='{precision}' is not known; choose one of "
            f'{", ".join(PRECISIONS)}.'
        )
    if precision == 'fp32':
        return module
    module = copy.deepcopy(module).requires_grad_(False)
    for name, layer in list(module.named_modules()):
        if not isinstance(layer, _LAYERS) or layer.weight.numel() < STORED:
            continue
        if precision == 'int8':
            stored: nn.Module = StoredInt8()
        else:
            stored = StoredHalf(_HALVES[precision])
        largest = layer.weight.abs().max()
        parametrize.register_parametrization(layer, 'weight', stored, unsafe=True)
        if not layer.weight.isfinite().all():
            raise ValueError(
                f"precision='{precision}', but {name}.weight has numbers up to "
                f'{largest:g}, which it does not hold; use bf16 or fp32.'
            )
    return module
