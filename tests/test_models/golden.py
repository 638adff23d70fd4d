"""The small model of known numbers, and its weights under our names."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from mergevq_mm.official.tokenizer import tokenizer_to_ours

FOLDER = Path(
    os.environ.get('MERGEVQ_GOLDEN', Path(__file__).parents[3] / 'shared' / 'golden')
)
TOLERANCE = {'rtol': 1e-4, 'atol': 5e-5}

ARCH = {
    'stem': 'hybrid',
    'base_channels': 32,
    'channel_mult': (1, 1, 2),
    'num_res_blocks': 1,
    'num_layers': 4,
    'num_heads': 4,
}


def load(name: str) -> dict[str, np.ndarray]:
    """Read a golden file, or skip the test where it is not there."""
    path = FOLDER / name
    if not path.is_file():
        pytest.skip(f'{path} is not there; set MERGEVQ_GOLDEN to the golden folder')
    with np.load(path, allow_pickle=False) as file:
        return dict(file)


def renamed_weights(golden: dict[str, np.ndarray]) -> dict[str, Tensor]:
    """The golden weights under the names of this package, by the real converter."""
    weights = {
        key: torch.from_numpy(value)
        for key, value in golden.items()
        if key.startswith(('encoder.', 'decoder.'))
    }
    return tokenizer_to_ours(weights, img_size=32, num_heads=4).weights


def part(weights: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The weights of one part."""
    return {
        key[len(prefix) + 1 :]: value
        for key, value in weights.items()
        if key.startswith(prefix + '.')
    }
