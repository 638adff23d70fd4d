"""Heads: losses of the generator side, alignment of the class token, features."""

from .alignment_head import AlignmentHead
from .feature_head import FeatureHead
from .mergevq_head import MergeVQHead

__all__ = ['AlignmentHead', 'FeatureHead', 'MergeVQHead']
