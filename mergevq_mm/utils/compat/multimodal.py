"""mmpretrain's multimodal models beside a newer transformers."""

from __future__ import annotations

import importlib.metadata
import sys


def leave_out_multimodal() -> bool:
    """Keep mmpretrain from importing its multimodal part where that cannot work.

    mmpretrain 1.2 imports it where transformers and pycocotools are installed (mmdet
    brings the latter), and dies with "NoneType takes no arguments" on names that
    transformers 5 dropped. Without it, each of its types says what it needs when it
    is built.

    Returns:
        bool: Whether the part was left out.
    """
    dependency = sys.modules['mmpretrain.utils.dependency']
    if not dependency.WITH_MULTIMODAL:
        return False
    if int(importlib.metadata.version('transformers').split('.')[0]) < 5:
        return False
    dependency.WITH_MULTIMODAL = False
    return True
