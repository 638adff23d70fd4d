"""Configs: mmengine's, or those of the small tier."""

from typing import TYPE_CHECKING

from .tier import has_openmmlab

if not TYPE_CHECKING and has_openmmlab():
    from mmengine.config import Config
else:
    from .small.config import Config

__all__ = ['Config']
