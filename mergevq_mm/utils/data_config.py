"""Configs that are data: JSON and YAML, read without running or importing anything.

mmengine reads such a file as it reads python: it follows ``_base_`` into scripts,
imports what ``custom_imports`` names, puts variables of the environment into
``{{$NAME:default}}``, and lets tags of YAML call any function.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

_ENDINGS = ('.json', '.yaml', '.yml')
# A published config has 5 kB, 300 values and 6 levels.
_BYTES, _VALUES, _DEPTH = 2**20, 100_000, 50


def is_data(path: str | os.PathLike) -> bool:
    """Whether a config is data by its ending, in any case.

    Args:
        path (str | PathLike): Of a config.

    Returns:
        bool: False for python.
    """
    return Path(path).suffix.lower() in _ENDINGS


def read_data(path: str | os.PathLike) -> dict[str, Any]:
    """Read a config that is data.

    Args:
        path (str | PathLike): Ends in ``.json``, ``.yaml`` or ``.yml``.

    Returns:
        dict[str, Any]: Its content, as it stands there.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is damaged, holds more than data, or more than a config could.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f'Config "{path}" does not exist: give the path of a config file.'
        )
    size = path.stat().st_size
    if size > _BYTES:
        raise ValueError(f'"{path}" has {size:,} bytes; no config of a model has them.')
    try:
        content = _parse(path.read_text(encoding='utf-8'), path.suffix.lower())
    except (ValueError, RecursionError) as error:
        reason = ' '.join(str(error).split())
        raise ValueError(
            f'"{path}" is damaged ({reason}); fetch or save the model again.'
        ) from None
    if not isinstance(content, dict) or not _is_bounded(content):
        raise ValueError(
            f'"{path}" holds no config of a model; give one with a dict "model" of '
            'numbers, texts, lists and dicts.'
        )
    return content


def _parse(text: str, ending: str) -> Any:
    """Content of a file."""
    if ending == '.json':
        return json.loads(text)
    import yaml

    class Loader(yaml.SafeLoader):
        """Without tags that call something; tuples are what ``Config.dump`` writes."""

    Loader.add_constructor(
        'tag:yaml.org,2002:python/tuple',
        lambda loader, node: tuple(loader.construct_sequence(node, deep=True)),
    )
    try:
        return yaml.load(text, Loader)
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from None


def _is_bounded(content: Any) -> bool:
    """Whether it is small and shallow; lists of YAML may contain one list often."""
    count, todo = 0, [(content, 0)]
    while todo:
        value, depth = todo.pop()
        count += 1
        if count > _VALUES or depth > _DEPTH:
            return False
        if isinstance(value, dict):
            value = list(value.values())
        if isinstance(value, (list, tuple)):
            todo.extend((item, depth + 1) for item in value)
    return True
