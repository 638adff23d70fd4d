"""Decoders."""

from .mergevq_decoder import MergeVQDecoder

__all__ = ['MergeVQDecoder']
