"""Necks: token recovery, and a feature pyramid for detectors."""

from .mean_codes import MeanCodes
from .simple_feature_pyramid import SimpleFeaturePyramid
from .source_recovery import GroupMapRecovery, SourceRecovery

__all__ = ['GroupMapRecovery', 'MeanCodes', 'SimpleFeaturePyramid', 'SourceRecovery']
