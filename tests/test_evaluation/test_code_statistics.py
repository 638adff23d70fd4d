import math

import numpy as np
import pytest
from scipy.stats import entropy

from mergevq_mm.evaluation.functional import (
    bit_entropies,
    code_statistics,
    entropy_bits,
)


def test_code_statistics_by_hand():
    # 3 bits; codes 0, 0, 5, 6: bits (b0, b1, b2) = 000, 000, 101, 011.
    statistics = code_statistics(np.array([[0, 0], [5, 6]]), bits=3)
    h_quarter = -(0.25 * math.log2(0.25) + 0.75 * math.log2(0.75))
    assert statistics == pytest.approx(
        {
            'usage': 3 / 8,
            'distinct': 3,
            'usage_of_possible': 3 / 4,
            'entropy': 1.5,
            'perplexity': 2**1.5,
            'bit_entropy': (2 * h_quarter + 1) / 3,
            'bit_entropy_min': h_quarter,
        }
    )


def test_extremes():
    uniform = code_statistics(np.arange(2**10), bits=10)
    assert uniform['usage'] == 1 and uniform['usage_of_possible'] == 1
    assert uniform['entropy'] == pytest.approx(10)
    assert uniform['perplexity'] == pytest.approx(1024)
    assert uniform['bit_entropy_min'] == pytest.approx(1)
    collapsed = code_statistics(np.full(50, 2**18 - 1), bits=18)
    assert collapsed['entropy'] == 0 and collapsed['perplexity'] == 1
    assert collapsed['usage'] == 2**-18 and collapsed['bit_entropy'] == 0
    assert math.copysign(1, collapsed['entropy']) == 1


def test_against_scipy_and_slow_bits():
    rng = np.random.default_rng(0)
    index = np.minimum(rng.geometric(0.05, 3000), 63)
    histogram = np.bincount(index, minlength=64)
    assert entropy_bits(histogram) == pytest.approx(entropy(histogram, base=2))
    expected = []
    for bit in range(6):
        p = np.mean([(i // 2**bit) % 2 for i in index])
        expected.append(entropy([p, 1 - p], base=2))
    np.testing.assert_allclose(bit_entropies(histogram, 6), expected, rtol=1e-12)


def test_bad_codes():
    with pytest.raises(ValueError, match=r'set bits=3 to the quantizer'):
        code_statistics(np.array([1, 8]), bits=3)
    with pytest.raises(ValueError, match='index is empty'):
        code_statistics(np.array([], dtype=int), bits=3)
