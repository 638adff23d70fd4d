"""Building models without their weights."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn


def build_on_meta(model: Mapping[str, Any]) -> nn.Module:
    """Build a model whose tensors have shapes and no content.

    It takes neither memory nor time, and serves to compare names and shapes and to
    count operations. A generator's tokenizer, of which only the size is asked, is built
    as always: it loads its weights at the first use, which does not come.

    Args:
        model (Mapping): Config of a model without frozen helpers, such as
            :func:`~.published.published_model` makes it.

    Returns:
        nn.Module: The model on the meta device.
    """
    from mergevq_mm.registry import MODELS

    config = copy.deepcopy(dict(model))
    if 'tokenizer' in config:
        tokenizer = MODELS.build(config['tokenizer'])
        config['tokenizer'] = {'type': lambda: tokenizer}
    with torch.device('meta'):
        return MODELS.build(config)
