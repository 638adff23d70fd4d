"""Reads the commands, snippets and links of the README and of docs/."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass, field
from pathlib import Path

REPO = Path(__file__).resolve().parents[1]
PAGES = [REPO / 'README.md', *sorted((REPO / 'docs').glob('*.md'))]
FENCE = re.compile(r'^```(\w*)\n(.*?)^```$', re.MULTILINE | re.DOTALL)
ASSIGNMENT = re.compile(r'([A-Za-z_]\w*)=(.*)', re.DOTALL)


@dataclass(frozen=True)
class Command:
    """One command of a page.

    Attributes:
        page (Path): Where it stands.
        words (tuple[str, ...]): Program and arguments, variables put in.
        environment (dict): Variables that are set for it alone.
    """

    page: Path
    words: tuple[str, ...]
    environment: dict[str, str] = field(default_factory=dict, hash=False)

    def __str__(self) -> str:
        return f'{self.page.name}: {shlex.join(self.words)}'


def blocks(page: Path, *languages: str) -> list[str]:
    """The fenced blocks of a page that are in one of the languages."""
    return [body for name, body in FENCE.findall(page.read_text()) if name in languages]


def commands(page: Path) -> list[Command]:
    """The commands of all shell blocks of a page, in their order."""
    found = []
    variables: dict[str, str] = {}
    for body in blocks(page, 'bash', 'shell'):
        for line in _lines(body):
            for part in re.split(r'\s&&\s', line):
                text = re.sub(
                    r'\$(\w+)', lambda m: variables.get(m[1], m[0]), part.strip()
                )
                words = shlex.split(text, comments=True)
                environment = {}
                while words and (match := ASSIGNMENT.fullmatch(words[0])):
                    environment[match[1]] = match[2]
                    words = words[1:]
                if words:
                    found.append(Command(page, tuple(words), environment))
                else:
                    variables.update(environment)
    return found


def _lines(body: str) -> list[str]:
    """Lines of a shell script, those that go on joined."""
    lines: list[str] = []
    kept = ''
    for line in body.splitlines():
        kept += line
        if kept.endswith('\\'):
            kept = kept[:-1]
        elif kept.count('"') % 2:  # a string over several lines
            kept += '\n'
        else:
            lines.append(kept)
            kept = ''
    assert not kept.strip(), f'a command is not finished: {kept}'
    return lines


def links(page: Path) -> list[str]:
    """Targets of links and pictures that are not addresses of the web."""
    text = FENCE.sub('', page.read_text())
    targets = re.findall(r'\]\(([^)\s]+)\)', text)
    return [target for target in targets if not re.match(r'[a-z]+:', target)]


def anchors(page: Path) -> set[str]:
    """Names under which the headings of a page can be linked."""
    text = FENCE.sub('', page.read_text())
    titles = re.findall(r'^#+ +(.+)$', text, re.MULTILINE)
    return {re.sub(r'[^\w\- ]', '', t.lower()).replace(' ', '-') for t in titles}
