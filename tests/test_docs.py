"""README and docs/: links lead somewhere, commands and snippets are understood."""

from __future__ import annotations

import ast
import importlib.util
import sys
from pathlib import Path

import pytest
from doc_commands import PAGES, REPO, Command, anchors, blocks, commands, links

from mergevq_mm.cli.main import parse_args as parse_cli
from mergevq_mm.utils.config import load_config

COMMANDS = [command for page in PAGES for command in commands(page)]
PYTHON = ('python', '.venv/bin/python')
# Programs of others, and what a page asks to have installed.
OTHERS = ('pip', 'apt-get', 'docker', 'jupyter', 'ls', 'mim', 'mkdir', 'source')


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.name)
def test_links(page: Path) -> None:
    for target in links(page):
        name, _, anchor = target.partition('#')
        path = (page.parent / name).resolve() if name else page
        assert path.exists(), f'{target} leads nowhere'
        if anchor:
            assert anchor in anchors(path), f'{target}: no such heading'


def test_readme_is_short_and_names_every_page() -> None:
    readme, *pages = PAGES
    assert len(readme.read_text().splitlines()) < 150
    contents = (REPO / 'docs' / 'index.md').read_text().splitlines()
    for page in pages:
        if page.name != 'index.md':
            assert f'docs/{page.name}' in links(readme)
            assert page.stem in contents


def test_pictures_are_shown() -> None:
    shown = {
        (page.parent / target.partition('#')[0]).resolve()
        for page in PAGES
        for target in links(page)
    }
    assert set((REPO / 'docs' / 'images').iterdir()) <= shown


def load_tool(path: Path, monkeypatch: pytest.MonkeyPatch) -> object:
    """A script of tools/ as a module, found with its neighbours."""
    monkeypatch.setattr(sys, 'path', [str(path.parent), *sys.path])
    spec = importlib.util.spec_from_file_location(f'doc_{path.stem}', path)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    return module


def check_python(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """A python command names a script and flags that it knows."""
    script, *arguments = command.words[1:]
    if script == '-c':
        ast.parse(arguments[0])
        return
    if script == '-m':
        if arguments[0] == 'mergevq_mm':
            parse_cli(arguments[1:])
        elif arguments[0] == 'pytest':
            assert all((REPO / name).exists() for name in arguments[1:])
        else:
            assert arguments[0] == 'pip'
        return
    if 'site-packages' in script:  # mmpretrain's own tool, which a test starts
        return
    path = REPO / script
    assert path.is_file(), f'{script} is not there'
    tool = load_tool(path, monkeypatch)
    if hasattr(tool, 'parse_args'):
        tool.parse_args(arguments)
    else:
        assert not arguments


@pytest.mark.parametrize('command', COMMANDS, ids=str)
def test_commands(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """Scripts and configs that a command names are there, its flags are known."""
    program, *arguments = command.words
    for word in arguments:
        if word.startswith('configs/') and word.endswith('.py'):
            assert (REPO / word).is_file() or word == 'configs/my_folder.py', word
    monkeypatch.chdir(REPO)
    if program in PYTHON:
        check_python(command, monkeypatch)
    elif program == 'mergevq':
        parse_cli(arguments)
    elif program == 'bash':
        assert (REPO / arguments[0]).is_file()
    else:
        assert program in OTHERS


# The parts of extend.md are put to use in test_docs_extend.py.
SNIPPETS = [
    (page, body)
    for page in PAGES
    if page.name != 'extend.md'
    for body in blocks(page, 'python')
]


@pytest.mark.parametrize(
    ('page', 'body'),
    SNIPPETS,
    ids=[f'{p.name}-{i}' for i, (p, _) in enumerate(SNIPPETS)],
)
def test_python(page: Path, body: str, tmp_path: Path) -> None:
    """Snippets are python; those that are configs load from the folder configs/."""
    tree = ast.parse(body)
    first = tree.body[0]
    if isinstance(first, ast.Assign) and first.targets[0].id == '_base_':
        bases = [str(REPO / 'configs' / base) for base in ast.literal_eval(first.value)]
        lines = body.splitlines()[first.end_lineno :]
        file = tmp_path / 'snippet.py'
        file.write_text('\n'.join([f'_base_ = {bases}', *lines]))
        load_config(str(file))
