"""mmpretrain's multimodal models beside a newer transformers."""

from __future__ import annotations

import importlib.metadata
import sys

# By mmpretrain's version, the first transformers that its multimodal part cannot import
# (tried with 4.44 to 4.51, 4.52, 4.57 and 5.24; the fork, 1.3, says so itself).
_TOO_NEW = {True: (4, 52), False: (5, 0)}


def leave_out_multimodal() -> bool:
    """Keep mmpretrain from importing its multimodal part where that cannot work.

    mmpretrain imports it where transformers and pycocotools are installed (mmdet brings
    the latter), and dies with "NoneType takes no arguments", or of a name that
    transformers dropped. Without it, each of its types says what it needs when it is
    built.

    Returns:
        bool: Whether the part was left out.
    """
    dependency = sys.modules['mmpretrain.utils.dependency']
    if not dependency.WITH_MULTIMODAL:
        return False
    from mmpretrain.version import version_info

    too_new = _TOO_NEW[tuple(version_info[:2]) < (1, 3)]
    if _version('transformers') < too_new:
        return False
    dependency.WITH_MULTIMODAL = False
    return True


def _version(package: str) -> tuple[int, ...]:
    from packaging.version import Version

    return Version(importlib.metadata.version(package)).release
