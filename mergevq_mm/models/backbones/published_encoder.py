"""The encoder of a published folder as a backbone, in one line of a config."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from mergevq_mm.registry import MODELS
from mergevq_mm.utils.export import read_config
from mergevq_mm.utils.published import TOKENIZER_FOLDER, WEIGHTS
from mergevq_mm.utils.shipped import find_model

from .mergevq_encoder import MergeVQEncoder


@MODELS.register_module(name='PublishedEncoder')
def published_encoder(folder: str | os.PathLike[str], **kwargs: Any) -> MergeVQEncoder:
    """Build the encoder of a folder that ``export`` or ``save_pretrained`` wrote.

    Args:
        folder (str | PathLike): Of a tokenizer, or of a generator with its tokenizer;
            or the name of a shipped model.
        **kwargs: Arguments of :class:`MergeVQEncoder` in the place of the folder's,
            such as ``out_type``, ``out_indices``, ``keep`` or ``frozen_stages``.

    Returns:
        MergeVQEncoder: With the weights of the folder, which its ``init_cfg`` names.

    Raises:
        FileNotFoundError: If there is no such folder.
        ValueError: If its config names what it must not, or an argument is none.

    Examples:
        >>> backbone = dict(type='mergevq_mm.PublishedEncoder', folder='my-tokenizer')
    """
    folder = Path(find_model(folder))
    model, _ = read_config(folder)
    if 'tokenizer' in model:
        folder = folder / TOKENIZER_FOLDER
        model, _ = read_config(folder)
    init_cfg = {
        'type': 'Pretrained',
        'checkpoint': str(folder / WEIGHTS),
        'prefix': 'backbone.',
    }
    encoder: MergeVQEncoder = MODELS.build(
        {**model['backbone'], 'init_cfg': init_cfg, **kwargs}
    )
    if encoder.init_cfg:
        encoder.init_weights()
        encoder.is_init = False  # a runner's init_weights loads them once more
    return encoder
