"""Necks: token recovery."""

from .source_recovery import GroupMapRecovery, SourceRecovery

__all__ = ['GroupMapRecovery', 'SourceRecovery']
