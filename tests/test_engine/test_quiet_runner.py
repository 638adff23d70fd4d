"""What a training says first and last, and what it keeps for its log file."""

from __future__ import annotations

import logging

import pytest

from mergevq_mm.engine.quiet_runner import closing_words, is_routine


@pytest.mark.parametrize(
    ('level', 'text', 'expected'),
    [
        (logging.INFO, 'Config:\na = 1\n', True),
        (logging.INFO, "Add to optimizer 'generator' ({}): 'neck'.", True),
        (logging.WARNING, '"FileClient" will be deprecated in future.', True),
        (logging.INFO, 'resumed epoch: 2, iter: 8', False),
        (logging.INFO, '\n-----\nSystem environment:\n    sys.platform: linux', True),
        (logging.INFO, 'The schedules are those of the checkpoint:\n  a', False),
        (logging.ERROR, 'Add to optimizer failed', False),
    ],
)
def test_routine(level: int, text: str, expected: bool) -> None:
    record = logging.LogRecord('mmengine', level, '', 0, text, (), None)
    assert is_routine(record) == expected


def test_closing_words() -> None:
    for model, command in (
        (
            dict(type='mergevq_mm.MergeVQ'),
            "Try: mergevq reconstruct 'my run/c.py' IMAGE --weights 'my run/w.pth'",
        ),
        (
            dict(type='mergevq_mm.RandAR', tokenizer=dict()),
            "Try: mergevq generate 'my run/c.py' --weights 'my run/w.pth'",
        ),
        (
            dict(type='ImageClassifier'),
            "Test: python tools/test.py 'my run/c.py' 'my run/w.pth'",
        ),
    ):
        words = closing_words(
            dict(model=model, test_cfg=dict()), 'my run/c.py', 'my run/w.pth'
        )
        assert words.splitlines() == ['Weights: my run/w.pth', command]
    assert (
        closing_words(dict(model=dict(type='X')), 'c.py', 'w.pth') == 'Weights: w.pth'
    )
