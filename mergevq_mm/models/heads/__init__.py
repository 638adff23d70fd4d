"""Heads: the losses of the generator side and the alignment of the class token."""

from .alignment_head import AlignmentHead
from .mergevq_head import MergeVQHead

__all__ = ['AlignmentHead', 'MergeVQHead']
