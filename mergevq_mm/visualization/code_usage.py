"""How a codebook is used: which codes occur how often, and what each bit says."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mergevq_mm.evaluation.functional.codebook import bit_entropies, code_statistics

from .plots import BLUE, GREY, ORANGE, new_figure, title


def rank_frequency(index: np.ndarray) -> np.ndarray:
    """How often the codes occur, the most frequent first.

    Args:
        index (np.ndarray): Indices of all tokens, any shape.

    Returns:
        np.ndarray: A count of at least 1 for each code that occurs, descending.
    """
    counts = np.unique(np.asarray(index).reshape(-1), return_counts=True)[1]
    return np.sort(counts)[::-1]


def bit_shares(index: np.ndarray, bits: int) -> np.ndarray:
    """How often each bit of a code is set.

    Args:
        index (np.ndarray): Indices of all tokens, any shape, in [0, 2^bits).
        bits (int): Length of a code.

    Returns:
        np.ndarray: ``bits`` shares in [0, 1], bit 0 first.
    """
    flat = np.asarray(index).reshape(-1, 1)
    return ((flat >> np.arange(bits)) & 1).mean(axis=0)


def code_usage_figure(index: np.ndarray, bits: int, heading: str = '') -> Figure:
    """Rank and frequency of the codes, and the statistics of each bit.

    Args:
        index (np.ndarray): Indices of all tokens, any shape, in [0, 2^bits).
        bits (int): Length of a code.
        heading (str): Said before the numbers. Defaults to ''.

    Returns:
        Figure: Two plots.

    Raises:
        ValueError: If there is no index or one is outside of [0, 2^bits).
    """
    index = np.asarray(index).reshape(-1)
    numbers = code_statistics(index, bits)
    counts = rank_frequency(index)
    figure, (ranks, bars) = new_figure(1, 2, 11.5, 4.4)

    _draw_ranks(ranks, counts, bits)
    ranks.set_xlabel('rank of the code')
    ranks.set_ylabel('times it occurs')
    title(
        ranks,
        f'{heading}{": " if heading else ""}{numbers["distinct"]:,} codes of '
        f'{2**bits:,}',
        f'{index.size:,} tokens, entropy {numbers["entropy"]:.2f} bits, perplexity '
        f'{numbers["perplexity"]:,.0f}',
    )

    _draw_bits(bars, index, bits)
    title(
        bars,
        'bits',
        f'mean entropy {numbers["bit_entropy"]:.3f}',
    )
    return figure


def _draw_ranks(ranks: Axes, counts: np.ndarray, bits: int) -> None:
    """Frequency over rank, and how few codes half of the tokens have."""
    ranks.loglog(np.arange(1, len(counts) + 1), counts, color=BLUE, linewidth=2)
    even = counts.sum() / 2**bits
    if even > 1:  # else most codes would have to occur less than once
        ranks.axhline(even, color=GREY, linewidth=1, linestyle='--')
        ranks.annotate(
            'evenly used',
            (1, even),
            xytext=(0, 4),
            textcoords='offset points',
            fontsize=9,
            color=GREY,
        )
    half = int(np.searchsorted(np.cumsum(counts), counts.sum() / 2)) + 1
    ranks.axvline(half, color=ORANGE, linewidth=1.2)
    ranks.annotate(
        f'half of all tokens:\n{half:,} codes',
        (half, counts[0]),
        xytext=(6, -2),
        textcoords='offset points',
        fontsize=9,
        color=ORANGE,
        va='top',
    )


def _draw_bits(bars: Axes, index: np.ndarray, bits: int) -> None:
    """Share of ones and entropy of each bit."""
    shares = bit_shares(index, bits)
    histogram = np.bincount(index, minlength=2**bits)
    entropies = bit_entropies(histogram, bits)
    bars.bar(np.arange(bits), shares, color=BLUE, width=0.72, label='share of ones')
    bars.plot(
        np.arange(bits),
        entropies,
        color=ORANGE,
        marker='o',
        markersize=4,
        linewidth=1.2,
        label='entropy (bits)',
    )
    bars.axhline(0.5, color=GREY, linewidth=1, linestyle='--')
    bars.set_ylim(0, 1.05)
    bars.set_xticks(np.arange(bits))
    bars.set_xlabel('bit of the code')
    bars.legend(
        frameon=False, fontsize=9, ncols=2, loc='lower right', bbox_to_anchor=(1, 1.0)
    )
