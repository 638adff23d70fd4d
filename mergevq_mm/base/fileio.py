"""Reading files: with mmengine's backends, or in the small tier from the disk."""

from typing import TYPE_CHECKING

from .tier import has_openmmlab

if not TYPE_CHECKING and has_openmmlab():
    from mmengine.fileio import get
else:
    from .small.fileio import get

__all__ = ['get']
