"""The commands of the pages of docs/ in turn; they need the quickstart alone."""

from __future__ import annotations

from pathlib import Path

import pytest
from doc_commands import PAGES, Command, commands
from walk import run

README = [(command.words, command.environment) for command in commands(PAGES[0])]


@pytest.mark.parametrize(
    'command', [command for page in PAGES[1:] for command in commands(page)], ids=str
)
def test_command(command: Command, root: Path) -> None:
    if (command.words, command.environment) in README:
        pytest.skip('stands in the README too')
    run(command, root)
