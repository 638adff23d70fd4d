"""Whether the data of a one-command training are there, whole, and of which version."""

from __future__ import annotations

from pathlib import Path


def version_of(root: Path) -> str:
    """What the README of a data set says of its version; '' where it says nothing."""
    lines = (root / 'README.md').read_text(encoding='utf-8').splitlines()
    return next((line for line in lines if line.startswith('Version ')), '')


def is_whole(path: Path) -> bool:
    """Whether a safetensors file is there, and not cut short."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), 'pt'):
            return True
    except (OSError, SafetensorError):
        return False


def are_targets_fresh(path: Path, config: str | Path) -> bool:
    """Whether the file holds targets of the teacher that the config names."""
    from mmengine.config import Config
    from safetensors import safe_open

    if not is_whole(path):
        return False
    with safe_open(str(path), 'pt') as file:
        teacher = (file.metadata() or {}).get('teacher')
    return teacher == str(Config.fromfile(config).teacher)
