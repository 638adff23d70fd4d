"""Fault injection: several minutes, run by ``pytest tests/faults`` alone."""

from __future__ import annotations

import importlib
import signal
import sys
from pathlib import Path

import pytest
from ready_processes import IMPORTED

TESTS = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(TESTS / 'test_engine'))  # the toy run


def pytest_ignore_collect(config: pytest.Config) -> bool | None:
    """Leave this folder out of a run that does not name it."""
    named = any('faults' in str(argument) for argument in config.args)
    return None if named else True


@pytest.fixture(scope='session', autouse=True)
def ctrl_c_is_heard() -> None:
    """A run in the background may ignore SIGINT; its shells would do so, too."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope='session', autouse=True)
def imported() -> None:
    """What forked runs need is there already: else each would import it anew."""
    for name in IMPORTED:
        importlib.import_module(name)
