"""The small model of known numbers, and its weights under our names."""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

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

_RULES = [
    (r'^encoder\.conv_in', 'backbone.stem.conv_in'),
    (r'^encoder\.down\.(\d+)\.block', r'backbone.stem.stages.\1'),
    (r'^encoder\.down\.(\d+)\.downsample', r'backbone.stem.downsamples.\1'),
    (r'^encoder\.attn\.cls_token', 'backbone.cls_token'),
    (r'^encoder\.attn\.blocks', 'backbone.layers'),
    (r'^encoder\.norm_out', 'quantizer.projection.norm'),
    (r'^encoder\.conv_out', 'quantizer.projection.linear'),
    (r'^encoder\.dist_head', 'head.alignment.projector'),
    (r'^decoder\.conv_in', 'decoder.conv_in'),
    (r'^decoder\.attn\.pos_embed', 'decoder.position'),
    (r'^decoder\.attn\.blocks', 'decoder.layers'),
    (r'^decoder\.(norm|conv)_out', r'decoder.\1_out'),
    (r'nin_shortcut', 'shortcut'),
]
_LEVELS = [
    (r'^decoder\.up\.(\d+)\.block', 'decoder.stages.{}'),
    (r'^decoder\.up\.(\d+)\.upsample\.conv1', 'decoder.upsamples.{}.conv'),
    (r'^decoder\.adaptive\.(\d+)', 'decoder.adaptive_norms.{}'),
]


def load(name: str) -> dict[str, np.ndarray]:
    """Read a golden file, or skip the test where it is not there."""
    path = FOLDER / name
    if not path.is_file():
        pytest.skip(f'{path} is not there; set MERGEVQ_GOLDEN to the golden folder')
    with np.load(path, allow_pickle=False) as file:
        return dict(file)


def renamed_weights(golden: dict[str, np.ndarray]) -> dict[str, Tensor]:
    """The golden weights under the names of this package."""
    stages = len(ARCH['channel_mult'])
    weights = {}
    for key, value in golden.items():
        if not key.startswith(('encoder.', 'decoder.')):
            continue
        new = key
        for pattern, name in _LEVELS:
            # Theirs are numbered from the full resolution, ours in running order.
            new = re.sub(
                pattern, lambda m, n=name: n.format(stages - 1 - int(m[1])), new
            )
        for pattern, name in _RULES:
            new = re.sub(pattern, name, new)
        tensor = torch.from_numpy(value)
        if new == 'quantizer.projection.linear.weight':
            tensor = tensor.flatten(1)  # 1×1 convolution to linear
        weights[new] = tensor
    return weights


def part(weights: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The weights of one part."""
    return {
        key[len(prefix) + 1 :]: value
        for key, value in weights.items()
        if key.startswith(prefix + '.')
    }
