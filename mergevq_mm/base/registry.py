"""Registries: mmengine's, or those of the small tier."""

from typing import TYPE_CHECKING

from .tier import has_openmmlab

if not TYPE_CHECKING and has_openmmlab():
    from mmengine import registry as roots
    from mmengine.registry import DefaultScope, Registry
else:
    from .small.registry import DefaultScope, Registry, Roots

    roots = Roots()

__all__ = ['DefaultScope', 'Registry', 'roots']
