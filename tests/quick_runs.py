"""What a run of a test can spare: each takes a second or two of every run."""

from __future__ import annotations

import ast
import copy
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from mmengine.config import Config

CONFIGS = Path(__file__).resolve().parents[1] / 'configs'


def spare(patch: pytest.MonkeyPatch) -> None:
    """Let runners not beautify configs, nor ask compilers their versions, nor wait.

    mmengine waits whenever the data begin anew. A file of ``configs/`` is read once.
    """
    patch.setattr('mmengine.config.config.FormatCode', plain)
    patch.setattr('mmengine.runner.runner.collect_env', dict)
    patch.setattr('mmengine.runner.loops.time', SimpleNamespace(sleep=id))
    patch.setattr(Config, '_file2dict', staticmethod(remembering(Config._file2dict)))


def plain(text: str, **kwargs: Any) -> tuple[str, bool]:
    """In the place of yapf: a text that is no Python is an error here, too."""
    ast.parse(text)
    return text, True


def remembering(read: Callable) -> Callable:
    """What reads configs, for those of the repository once per environment."""
    known: dict[tuple, tuple] = {}

    def read_once(filename: str | Path, *args: Any, **kwargs: Any) -> tuple:
        path = Path(filename).resolve()
        if CONFIGS not in path.parents:
            return read(filename, *args, **kwargs)
        variables = {**os.environ, 'PYTEST_CURRENT_TEST': ''}
        key = path, args, *map(frozenset, (kwargs.items(), variables.items()))
        if key not in known:
            known[key] = read(filename, *args, **kwargs)
        return copy.deepcopy(known[key])

    return read_once
