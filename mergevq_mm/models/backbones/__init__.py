"""Backbones."""

from .mergevq_encoder import MergeVQEncoder
from .published_encoder import published_encoder

__all__ = ['MergeVQEncoder', 'published_encoder']
