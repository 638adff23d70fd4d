"""A backbone and an algorithm: mmpretrain's, or those of the small tier."""

from typing import TYPE_CHECKING

from .tier import has_openmmlab

if not TYPE_CHECKING and has_openmmlab():
    from mmpretrain.models.backbones.base_backbone import BaseBackbone
    from mmpretrain.models.selfsup.base import BaseSelfSupervisor
else:
    from .small.algorithm import BaseBackbone, BaseSelfSupervisor

__all__ = ['BaseBackbone', 'BaseSelfSupervisor']
