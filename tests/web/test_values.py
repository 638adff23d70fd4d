"""Numbers and choices that a browser sends."""

from __future__ import annotations

from typing import Any

import pytest

from mergevq_mm.web.values import choice, number, whole


def test_what_is_taken() -> None:
    assert whole('K', 4, 4, 16) == 4 and whole('K', 16.0, 4, 16) == 16
    assert isinstance(whole('K', 16.0, 4, 16), int)
    assert number('Pause', 0.5, 0, 200) == 0.5 and number('Pause', 200, 0, 200) == 200
    assert choice('Cache', 'full', ('compressed', 'full')) == 'full'
    assert choice('K', 9.0, [6, 9]) == 9 and isinstance(choice('K', 9.0, [6, 9]), int)


@pytest.mark.parametrize(
    'value',
    [3, 17, -1, 4.5, 1e300, float('nan'), float('inf'), -float('inf')]
    + [2**70, '5', None, True, [5], {'a': 5}, 'x' * 10**6],
)
def test_numbers_that_are_refused(value: Any) -> None:
    with pytest.raises(ValueError, match='^K = .* (give|lies)') as caught:
        whole('K', value, 4, 16)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize('value', ['half', None, True, 5, ['full'], {}, 'f' * 10**6])
def test_choices_that_are_refused(value: Any) -> None:
    with pytest.raises(ValueError, match='is none of compressed, full, 1') as caught:
        choice('Cache', value, ('compressed', 'full', 1))
    assert len(str(caught.value)) < 200
