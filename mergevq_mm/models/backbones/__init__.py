"""Backbones."""

from .mergevq_encoder import MergeVQEncoder

__all__ = ['MergeVQEncoder']
