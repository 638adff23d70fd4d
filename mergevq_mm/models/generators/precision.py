"""Generating in half precision: weights, activations and caches, but not the tokenizer.

Autocast keeps the weights in float32 and converts at each operator; a step of one token
then reads twice the bytes and launches a third more kernels. Weights of bfloat16 need
neither. What decides stays in float32 or more: rotary factors, norms' sums, guidance,
temperature and the draw. The tokenizer's weights stay as they are, so that equal codes
are equal images.
"""

from __future__ import annotations

import torch

from .token_generator import TokenGenerator

DTYPES = {'fp32': torch.float32, 'bf16': torch.bfloat16}


def set_precision(model: TokenGenerator, dtype: str) -> TokenGenerator:
    """Convert the weights of a generator that is to draw, and no longer to learn.

    Args:
        model (TokenGenerator): Changed in place.
        dtype (str): Of :data:`DTYPES`; 'fp32' leaves the weights as they are.

    Returns:
        TokenGenerator: The same.

    Raises:
        ValueError: If the type is not known, or the model is no generator.
    """
    if dtype not in DTYPES:
        raise ValueError(
            f"dtype='{dtype}' is not known; choose one of {', '.join(DTYPES)}."
        )
    if dtype == 'fp32':
        return model
    if not isinstance(model, TokenGenerator):
        raise ValueError(
            f"dtype='{dtype}' is for generators, which read their weights at each "
            f'step, but the model is a {type(model).__name__}; use autocast (--amp).'
        )
    for name, part in model.named_children():
        if name != 'tokenizer':  # buffers are rotary factors, which stay exact
            for parameter in part.parameters():
                parameter.data = parameter.data.to(DTYPES[dtype])
    return model
