"""Which of the two tiers is installed: the small one, or the one that also trains.

Who uses a trained model needs torch, timm, einops and safetensors. Training, its
configs, data sets and metrics need OpenMMLab, which the extra ``train`` brings.
"""

from __future__ import annotations

import importlib.util
import sys
from functools import cache

COMMAND = 'pip install "mergevq_mm[train]"'
# mmcv is not asked for: without it mmpretrain says itself what to install.
_STACK = ('mmengine', 'mmpretrain')


def exists(name: str) -> bool:
    """Tell whether a module can be found; packages above it are imported.

    Args:
        name (str): Full name of a module.

    Returns:
        bool: Whether it is there.
    """
    if name in sys.modules:
        return True
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # a package above it is missing
        return False


class MissingExtra(ModuleNotFoundError):
    """A package is missing that an extra brings; the message names the command."""


@cache
def has_openmmlab() -> bool:
    """Whether OpenMMLab is installed, as the extra ``train`` brings it.

    Returns:
        bool: The same throughout a process.
    """
    return all(exists(name) for name in _STACK)


def require(package: str, what: str, extra: str = 'train') -> None:
    """Refuse what needs a package that only an extra brings.

    Args:
        package (str): Its name.
        what (str): What was asked for, the beginning of a sentence.
        extra (str): Which. Defaults to 'train'.

    Raises:
        MissingExtra: If the package is missing.
    """
    if not exists(package):
        raise MissingExtra(
            f'{what} needs {package}, which is not installed: pip install '
            f'"mergevq_mm[{extra}]".',
            name=package,
        )


def needs_training(what: str) -> MissingExtra:
    """The error of something that the small tier does not have.

    Args:
        what (str): What was asked for, the beginning of a sentence.

    Returns:
        MissingExtra: To be raised.
    """
    missing = next((name for name in _STACK if not exists(name)), _STACK[0])
    return MissingExtra(
        f'{what} needs OpenMMLab, which is not installed: {COMMAND}.', name=missing
    )
