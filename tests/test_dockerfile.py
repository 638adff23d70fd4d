"""The Dockerfile, as far as it can be checked without Docker."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from doc_commands import REPO, Command, commands

from mergevq_mm.cli.main import parse_args as parse_cli

DOCKERFILE = (REPO / 'Dockerfile').read_text(encoding='utf-8')
PATTERNS = (REPO / '.dockerignore').read_text(encoding='utf-8').splitlines()
SET_UP = ('RUN', 'bash tools/setup_env.sh')


def instructions() -> list[tuple[str, str]]:
    """Name and arguments of each line, those that go on joined."""
    text = re.sub(r'^#.*\n', '', DOCKERFILE, flags=re.MULTILINE)
    lines = re.sub(r'\\\n\s*', '', text).splitlines()
    return [tuple(line.split(' ', 1)) for line in lines if line]


def sources(arguments: str) -> list[str]:
    """What a COPY takes: all but its flags and its target."""
    return [word for word in arguments.split() if not word.startswith('--')][:-1]


def is_left_out(path: str) -> bool:
    """Whether a pattern of .dockerignore fits a path or a folder above it."""
    kinds = {'**/': '(?:.*/)?', '*': '[^/]*', '.': r'\.'}
    parts = path.split('/')
    above = ['/'.join(parts[:end]) for end in range(1, len(parts) + 1)]
    for pattern in PATTERNS:
        if pattern and not pattern.startswith('#'):
            regex = re.sub(r'\*\*/|\*|\.', lambda found: kinds[found[0]], pattern)
            if any(re.fullmatch(regex, name) for name in above):
                return True
    return False


def test_all_that_is_copied_is_there() -> None:
    copied = [
        p for name, words in instructions() if name == 'COPY' for p in sources(words)
    ]
    assert copied[-1] == '.'  # last, so that a change of code installs nothing anew
    for path in copied:
        assert (REPO / path).exists()
        assert not is_left_out(path)


@pytest.mark.parametrize(
    'path',
    [
        '.git/config',
        '.venv/bin/python',
        '.venv-docs/pyvenv.cfg',
        'data/mnist5k/val/3/0.png',
        'work_dirs/quickstart/epoch_18.pth',
        'mergevq_mm/.mim/configs',
        'mergevq_mm/models/__pycache__/mergevq.cpython-311.pyc',
        'docs/api/index.rst',
    ],
)
def test_what_runs_have_made_is_left_out(path: str) -> None:
    assert is_left_out(path)


def test_nothing_of_the_repository_is_left_out() -> None:
    for folder in ('configs', 'docs', 'mergevq_mm', 'requirements', 'tests', 'tools'):
        for path in (REPO / folder).rglob('*'):
            name = path.relative_to(REPO).as_posix()
            if not re.search(r'__pycache__|/\.mim|docs/api', name):
                assert not is_left_out(name), name
    for name in ('Dockerfile', '.dockerignore', 'setup.py', 'README.md', '.ci/run'):
        assert not is_left_out(name)


def test_the_first_layer_is_enough(tmp_path: Path) -> None:
    """For setup.py, and for the import that ends ``setup_env.sh``."""
    before = instructions()[: instructions().index(SET_UP)]
    for name, words in before:
        if name == 'COPY':
            target = tmp_path / words.split()[-1]
            for source in sources(words):
                if (REPO / source).is_dir():
                    shutil.copytree(REPO / source, target)
                else:
                    target.mkdir(parents=True, exist_ok=True)
                    shutil.copy(REPO / source, target)
    code = (
        'import runpy, sys, mergevq_mm; print(mergevq_mm.__file__); '
        'sys.argv = ["setup.py", "--version"]; runpy.run_path("setup.py")'
    )
    done = subprocess.run(
        [sys.executable, '-c', code],
        cwd=tmp_path,
        env={**os.environ, 'PYTHONPATH': str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    first, *_, version = done.stdout.split()
    assert Path(first).parent.parent == tmp_path
    assert f"'{version}'" in (REPO / 'mergevq_mm' / 'version.py').read_text()


def test_the_package_runs_on_its_python() -> None:
    (base,) = [words for name, words in instructions() if name == 'FROM']
    minor = int(re.fullmatch(r'python:3\.(\d+)-slim-bookworm', base)[1])
    script = (REPO / 'tools' / 'setup_env.sh').read_text()
    oldest = int(re.search(r'local oldest=(\d+)', script)[1])
    assert oldest <= minor <= int(re.search(r'^newest_python=(\d+)', script, re.M)[1])
    assert f"python_requires='>=3.{oldest}'" in (REPO / 'setup.py').read_text()


def test_what_runs_is_no_root() -> None:
    names = [name for name, _ in instructions()]
    assert names.count('USER') == 1
    assert names.index('USER') < instructions().index(SET_UP)


def check(program: str, *arguments: str) -> None:
    if program == 'mergevq':
        parse_cli(arguments)
    else:
        assert program == 'bash'
        assert (REPO / arguments[0]).is_file()


def test_its_command_is_there() -> None:
    (words,) = [words for name, words in instructions() if name == 'CMD']
    check(*re.findall(r'"([^"]+)"', words))


@pytest.mark.parametrize(
    'command', commands(REPO / 'docs' / 'docker.md'), ids=lambda command: str(command)
)
def test_commands_of_the_page(command: Command) -> None:
    """What is run in the image is there, and what is given to the build is known."""
    words = list(command.words)
    if words[:2] == ['docker', 'run']:
        check(*words[words.index('mergevq_mm') + 1 :])
    for at, word in enumerate(words):
        if word == '--build-arg':
            assert ('ARG', words[at + 1].split('=')[0]) in [
                (name, value.split('=')[0]) for name, value in instructions()
            ]
        if word == '-v':  # the folder of the image
            assert (
                f'WORKDIR {words[at + 1].split(":")[1].rpartition("/")[0]}'
                in DOCKERFILE
            )
