"""Quantizers."""

from .lfq import LFQ

__all__ = ['LFQ']
