"""torchvision beside a CPU build of torch."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

# Schemas live as long as their Library, so that this reference is never dropped.
_LIBRARY: Any = None


def compiled_parts(package: str) -> list[Path]:
    """List the compiled operators of torchvision without importing it.

    Args:
        package (str): Name of the package, ``'torchvision'``.

    Returns:
        list[Path]: ``_C.so``, since 0.29 ``_C_stable.so``, or what a platform names
        them; not ``image.so``, which registers no operator that the import needs.
    """
    spec = importlib.util.find_spec(package)
    folders = spec.submodule_search_locations if spec is not None else None
    return [path for folder in folders or [] for path in Path(folder).glob('_C*')]


def declare_torchvision_ops() -> bool:
    """Declare the operators that ``import torchvision`` expects to find.

    A torchvision wheel built for CUDA cannot load its compiled part beside a CPU
    build of torch, and dies with "operator torchvision::nms does not exist". With
    the schemas declared, transforms, models and timm work; calling ``nms`` itself
    still fails, as it has no implementation.

    Returns:
        bool: Whether the schemas had to be declared.
    """
    global _LIBRARY
    if _LIBRARY is not None:
        return True  # an import of torchvision that failed is tried again
    import torch

    for path in compiled_parts('torchvision'):
        try:
            torch.ops.load_library(str(path))
            return False  # It loads: torchvision matches torch.
        except (ImportError, OSError):
            continue
    _LIBRARY = torch.library.Library('torchvision', 'FRAGMENT')
    for name in ('nms', 'qnms'):
        _LIBRARY.define(
            f'{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor'
        )
    return True
