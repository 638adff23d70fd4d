"""How much of a codebook of binary codes is used."""

from __future__ import annotations

import math

import numpy as np


def entropy_bits(counts: np.ndarray) -> float:
    """Entropy of a histogram in bits (plug-in estimate).

    Args:
        counts (np.ndarray): Any shape, counts of at least 0.

    Returns:
        float: In [0, log2(number of bins)].
    """
    positive = counts[counts > 0].astype(np.float64)
    share = positive / positive.sum()
    return float(-(share * np.log2(share)).sum()) + 0.0  # no minus zero


def bit_entropies(histogram: np.ndarray, bits: int) -> np.ndarray:
    """Entropy of each bit of the code by itself, in bits.

    Args:
        histogram (np.ndarray): How often each index occurs, 2^bits; bit 0 of the index
            is the first component of the code.
        bits (int): Length of a code.

    Returns:
        np.ndarray: ``bits`` values in [0, 1]; 0 is a bit that never changes.
    """
    used = np.flatnonzero(histogram)
    ones = [histogram[used[(used >> bit) & 1 == 1]].sum() for bit in range(bits)]
    total = histogram.sum()
    return np.array([entropy_bits(np.array([one, total - one])) for one in ones])


def code_statistics(index: np.ndarray, bits: int) -> dict[str, float]:
    """Usage and entropy of a codebook with 2^bits codes.

    Args:
        index (np.ndarray): Indices of all tokens, any shape, in [0, 2^bits).
        bits (int): Length of a code.

    Returns:
        dict[str, float]:

        - ``usage``: share of the 2^bits codes that occur, in [0, 1];
        - ``distinct``: number of codes that occur;
        - ``usage_of_possible``: ``distinct`` as a share of what this many tokens can
          reach at all, min(2^bits, tokens);
        - ``entropy``: entropy of the code histogram in bits; it cannot exceed
          log2(tokens), so compare it between equally many tokens only;
        - ``perplexity``: 2^entropy;
        - ``bit_entropy``, ``bit_entropy_min``: mean and least entropy of one bit.

    Raises:
        ValueError: If there is no index or one is outside of [0, 2^bits).
    """
    index = np.asarray(index).reshape(-1)
    if index.size == 0:
        raise ValueError('index is empty; give the codes of at least one image.')
    if index.min() < 0 or index.max() >= 2**bits:
        raise ValueError(
            f'index holds values in [{index.min()}, {index.max()}], outside of '
            f"[0, 2^{bits}); set bits={bits} to the quantizer's number of bits."
        )
    histogram = np.bincount(index, minlength=2**bits)
    distinct = int(np.count_nonzero(histogram))
    entropy = entropy_bits(histogram)
    per_bit = bit_entropies(histogram, bits)
    return {
        'usage': distinct / 2**bits,
        'distinct': distinct,
        'usage_of_possible': distinct / min(2**bits, index.size),
        'entropy': entropy,
        'perplexity': math.pow(2.0, entropy),
        'bit_entropy': float(per_bit.mean()),
        'bit_entropy_min': float(per_bit.min()),
    }
