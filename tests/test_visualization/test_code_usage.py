"""Rank, frequency and bits of codes."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from mergevq_mm.visualization import code_usage_figure, figure_image
from mergevq_mm.visualization.code_usage import bit_shares, rank_frequency


def _codes() -> np.ndarray:
    return np.random.default_rng(0).geometric(0.05, (40, 25)).clip(max=63)


def test_rank_frequency_and_bits_by_counting() -> None:
    index = _codes()
    counts = Counter(index.reshape(-1).tolist())
    assert rank_frequency(index).tolist() == [n for _, n in counts.most_common()]
    bits = [[int(d) for d in f'{i:06b}'[::-1]] for i in index.reshape(-1)]
    np.testing.assert_allclose(bit_shares(index, 6), np.mean(bits, axis=0))


def test_figure_shows_these_numbers() -> None:
    index = _codes()
    figure = code_usage_figure(index, 6, 'K = 25')
    ranks, bars = figure.axes
    np.testing.assert_array_equal(ranks.lines[0].get_ydata(), rank_frequency(index))
    assert ranks.lines[1].get_ydata()[0] == 1000 / 64  # evenly used
    half = ranks.lines[2].get_xdata()[0]
    counts = rank_frequency(index)
    assert counts[:half].sum() >= index.size / 2 > counts[: half - 1].sum()
    heights = [bar.get_height() for bar in bars.patches]
    np.testing.assert_allclose(heights, bit_shares(index, 6))
    shares = np.array(heights)
    entropy = -(shares * np.log2(shares) + (1 - shares) * np.log2(1 - shares))
    np.testing.assert_allclose(bars.lines[0].get_ydata(), entropy)
    image = figure_image(figure)
    assert image.dtype == np.uint8 and image.shape[2] == 3 and image.std() > 10


def test_codes_out_of_range() -> None:
    with pytest.raises(ValueError, match='outside of'):
        code_usage_figure(np.array([64]), 6)
