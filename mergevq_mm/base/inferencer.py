"""The base of inferencers: mmengine's, or that of the small tier."""

from typing import TYPE_CHECKING

from .tier import has_openmmlab

if not TYPE_CHECKING and has_openmmlab():
    from mmengine.infer import BaseInferencer
else:
    from .small.inferencer import BaseInferencer

__all__ = ['BaseInferencer']
