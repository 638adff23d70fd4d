"""Transforms that mmcv and mmpretrain lack."""

from .load_image import LoadImage, UnreadableImageError

__all__ = ['LoadImage', 'UnreadableImageError']
