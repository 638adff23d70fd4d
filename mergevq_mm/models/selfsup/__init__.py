"""Algorithms."""

from .mergevq import MergeVQ

__all__ = ['MergeVQ']
