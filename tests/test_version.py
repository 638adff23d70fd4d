"""The number of the version is the same wherever it stands, and means something."""

from __future__ import annotations

import importlib.util
import re
import runpy
from pathlib import Path
from types import ModuleType

import pytest
import setuptools

import mergevq_mm

REPO = Path(__file__).resolve().parents[1]
CHANGELOG = (REPO / 'CHANGELOG.md').read_text(encoding='utf-8')


@pytest.fixture(scope='module')
def tool() -> ModuleType:
    path = REPO / 'tools' / 'public_interface.py'
    spec = importlib.util.spec_from_file_location('public_interface', path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_one_number(tool: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, object] = {}
    monkeypatch.setattr(setuptools, 'setup', lambda **named: given.update(named))
    runpy.run_path(str(REPO / 'setup.py'))
    citation = (REPO / 'CITATION.cff').read_text(encoding='utf-8')
    newest, _ = tool.versions(CHANGELOG)[0]
    assert (
        mergevq_mm.__version__
        == given['version']
        == newest
        == re.search(r'^version: (.+)$', citation, re.MULTILINE)[1]
    )


def test_headings_go_up_and_the_newest_alone_may_have_no_date(tool: ModuleType) -> None:
    found = tool.versions(CHANGELOG)
    assert len(found) == CHANGELOG.count('\n## '), 'a heading of another form'
    numbers = [tuple(map(int, version.split('.'))) for version, _ in found]
    assert numbers == sorted(set(numbers), reverse=True)
    dates = [date for _, date in found if date != 'unreleased']
    assert dates == sorted(dates, reverse=True)
    assert all(re.fullmatch(r'\d{4}-\d\d-\d\d', date) for date in dates)
    assert 'unreleased' not in [date for _, date in found[1:]]


def test_files_of_each_released_version_are_kept(tool: ModuleType) -> None:
    for version, date in tool.versions(CHANGELOG):
        if date != 'unreleased':
            folder = REPO / 'tests' / 'legacy' / version.rpartition('.')[0]
            assert (folder / 'expected.json').is_file(), 'python tests/legacy/make.py'


@pytest.mark.parametrize(
    ('heading', 'why'),
    [
        ('0.3.0 (unreleased)', ''),
        ('0.3.0 (2026-12-24)', '0.3.0 was released on 2026-12-24'),
        ('0.3.1 (unreleased)', '0.3.1 is a patch'),
    ],
)
def test_what_users_rely_on_changes_with_the_minor_version(
    heading: str,
    why: str,
    tool: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, text in (('CHANGELOG', f'## {heading}\n'), ('FILE', 'before\n')):
        (tmp_path / name).write_text(text)
        monkeypatch.setattr(tool, name, tmp_path / name)
    monkeypatch.setattr(tool, 'interface', lambda: 'after\n')
    if not why:
        tool.main(['--update'])
        assert tool.FILE.read_text() == 'after\n'
        return
    with pytest.raises(SystemExit) as stopped:
        tool.main(['--update'])
    assert str(stopped.value).startswith(f'error: {why}, ')
    assert tool.FILE.read_text() == 'before\n'
