"""The commands of the README, one after the other."""

from __future__ import annotations

from pathlib import Path

import pytest
from doc_commands import PAGES, Command, commands
from walk import run


@pytest.mark.parametrize('command', commands(PAGES[0]), ids=str)
def test_command(command: Command, root: Path) -> None:
    run(command, root)
