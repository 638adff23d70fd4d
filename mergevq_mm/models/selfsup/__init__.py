"""Algorithms."""

from .mergevq import MergeVQ
from .mergevq_interpolation import interpolate
from .mergevq_refinement import MergeVQRefinement

__all__ = ['MergeVQ', 'MergeVQRefinement', 'interpolate']
