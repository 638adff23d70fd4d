"""A walk through the docs: minutes, run by ``bash tools/run_tests.sh --docs`` alone."""

from __future__ import annotations

from pathlib import Path

import pytest


def pytest_ignore_collect(config: pytest.Config) -> bool | None:
    """Leave this folder out of a run that does not name it."""
    named = any(Path(str(argument)).name == 'docs' for argument in config.args)
    return None if named else True
