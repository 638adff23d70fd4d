"""Packages that are not installed: a stand-in, or the command that installs them.

The finder of this file is asked when nobody else found a module.
"""

from __future__ import annotations

import importlib.util
import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

from ...base.tier import COMMAND, MissingExtra, has_openmmlab
from .watching import exists

# setuptools 82 dropped pkg_resources; mmengine imports and reloads it.
_STAND_INS = {'pkg_resources': Path(__file__).with_name('pkg_resources_part.py')}
# The small tier has none of them. mmcv and mmcv-lite share a folder: who has one must
# not get the other; mmagic declares much that it never uses.
_TRAIN = f'training, its configs, data sets and metrics need it: {COMMAND}'
_REMEDIES = {
    'mmengine': _TRAIN,
    'mmpretrain': _TRAIN,
    'mmcv': (
        'mmpretrain needs it: pip install "mmcv-lite==2.1.0", or mmcv of that version '
        'with compiled operators; never both.'
    ),
    'mmagic': (
        'generators, GAN training and its metrics need it: pip install '
        '"mergevq_mm[mmagic]" && pip install --no-deps mmagic'
    ),
}
# Functions that look for a module for others, and those of Python's import and of
# mmengine's reading of configs that cannot go on without it.
_LOOKING = ('_find_spec', 'find_spec', 'is_installed')
_NEEDING = ('_find_and_load_unlocked', '_get_cfg_path', 'get_installed_path')
# What mmagic imports at once, or with its models.
_OF_MMAGIC = ('diffusers', 'imageio', 'pandas', 'resize_right', 'transformers')


class _LastFinder(MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Any, target: Any = None
    ) -> ModuleSpec | None:
        """Return the spec of a stand-in, or say what to install."""
        if fullname in _STAND_INS:
            return importlib.util.spec_from_file_location(
                fullname, _STAND_INS[fullname]
            )
        if fullname in _REMEDIES and _is_needed():
            raise MissingExtra(_sentence(fullname), name=fullname)
        return None


def _is_needed() -> bool:
    """Whether who looks for a module cannot go on without it.

    Many ask ``importlib.util.find_spec``, or mmengine's ``is_installed``, whether an
    optional package is there; they are to get an answer.
    """
    frame = sys._getframe(2)  # who called the finder
    while frame is not None and frame.f_code.co_name in _LOOKING:
        frame = frame.f_back
    return frame is not None and frame.f_code.co_name in _NEEDING


def _sentence(name: str) -> str:
    small = name == 'mmcv' and not has_openmmlab()
    return f'No module named {name!r}; {_TRAIN if small else _REMEDIES[name]}'


_FINDER = _LastFinder()


def be_asked_last() -> None:
    """Let imports that fail end in :class:`_LastFinder`."""
    if _FINDER not in sys.meta_path:
        sys.meta_path.append(_FINDER)


def remedy(name: str) -> str | None:
    """Tell how a package is installed that is missing.

    Args:
        name (str): Name of a top-level package.

    Returns:
        str | None: A sentence; None if it is there, or not one that we know.
    """
    if name not in _REMEDIES or exists(name):
        return None
    return _sentence(name)


def require_for_mmagic() -> None:
    """Name all that mmagic lacks, where it is about to die of the first one.

    Raises:
        ModuleNotFoundError: If something is missing that it imports.
    """
    missing = [name for name in _OF_MMAGIC if not exists(name)]
    if missing:
        raise MissingExtra(
            f'mmagic needs {", ".join(missing)}: pip install "mergevq_mm[mmagic]"',
            name=missing[0],
        )
