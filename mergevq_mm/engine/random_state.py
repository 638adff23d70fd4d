"""Random states of a process, in types that a checkpoint may hold."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch


def get_rng_state() -> dict[str, Any]:
    """Read the random states of this process.

    Returns:
        dict[str, Any]: States of python, numpy, torch and, where there is one, the
        current CUDA device, as numbers, lists and tensors.
    """
    version, words, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state()
    state = dict(
        python=[version, list(words), gauss],
        numpy=[name, keys.tolist(), int(position), int(has_gauss), float(cached)],
        torch=torch.get_rng_state(),
    )
    if torch.cuda.is_available():
        state['cuda'] = torch.cuda.get_rng_state()
    return state


def set_rng_state(state: Mapping[str, Any]) -> None:
    """Set the random states of this process.

    Args:
        state (Mapping[str, Any]): A value of :func:`get_rng_state`.
    """
    version, words, gauss = state['python']
    random.setstate((version, tuple(words), gauss))
    name, keys, *rest = state['numpy']
    np.random.set_state((name, np.array(keys, dtype=np.uint32), *rest))
    torch.set_rng_state(state['torch'].cpu())
    if 'cuda' in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state['cuda'].cpu())
