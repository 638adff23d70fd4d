"""The small generator of known numbers, and its weights under our names."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mergevq_mm.models.generators import MergeAR
from mergevq_mm.official.generator import generator_to_ours

FOLDER = Path(
    os.environ.get('MERGEVQ_GOLDEN', Path(__file__).parents[4] / 'shared' / 'golden')
)
TOLERANCE = {'rtol': 1e-4, 'atol': 5e-5}
LENGTH = 16

_ANSWERS = ('pre', 'post', 'label', 'logits_pre', 'logits_post', 'config')


class Golden:
    """The file's generator, and what it says of the file's codes.

    Attributes:
        model (MergeAR): With its weights.
        index (Tensor): Codes, 3×16 int64.
        labels (Tensor): 3 int64; the last one is no class.
        logits (list[Tensor]): 3×16×8 and 3×16×32.
    """

    def __init__(self, **overrides: Any) -> None:
        path = FOLDER / 'gpt_tiny.npz'
        if not path.is_file():
            pytest.skip(f'{path} is not there; set MERGEVQ_GOLDEN to the golden folder')
        with np.load(path, allow_pickle=False) as file:
            arrays = {
                key: torch.from_numpy(file[key]) for key in file if key != 'config'
            }
        arguments = dict(
            tokenizer=dict(type='mergevq_mm.GridOfCodes', grid=(4, 4)),
            arch=dict(embed_dims=64, num_layers=3, num_heads=4, ffn_multiple=32),
            num_classes=10,
            merge_token=False,
            window=None,
            dropout=0.0,
        )
        self.model = MergeAR(**{**arguments, **overrides}).eval()
        self.model.load_state_dict(renamed(arrays))
        self.index = arrays['pre'] + 8 * arrays['post']
        self.labels = arrays['label']
        self.logits = [arrays['logits_pre'], arrays['logits_post']]


def renamed(arrays: dict[str, Tensor]) -> dict[str, Tensor]:
    """The golden weights under the names of this package, by the real converter."""
    weights = {key: value for key, value in arrays.items() if key not in _ANSWERS}
    return generator_to_ours(weights, num_heads=4).weights
