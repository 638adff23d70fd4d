"""The commands of each page in turn; a page needs the quickstart alone."""

from __future__ import annotations

from pathlib import Path

import pytest
from doc_commands import PAGES, Command, commands
from walk import run

README = [(command.words, command.environment) for command in commands(PAGES[0])]


@pytest.mark.parametrize(
    ('root', 'command'),
    [
        pytest.param(page, command, id=str(command))
        for page in PAGES
        for command in commands(page)
    ],
    indirect=['root'],
    scope='module',
)
def test_command(command: Command, root: Path) -> None:
    if command.page != PAGES[0] and (command.words, command.environment) in README:
        pytest.skip('stands in the README too')
    run(command, root)
