"""Metrics, feature extractors and probes."""

from .feature_extractors import BackboneFeatures, FeatureExtractor, InceptionFeatures
from .metrics import (
    ClassConsistency,
    CodebookMetric,
    FrechetMetric,
    GenerationFrechet,
    GenerationMetric,
    GenerationStatistics,
    LPIPSMetric,
    ReconstructionMetric,
    SourceRecoveryMetric,
)
from .probe import extract_features, linear_probe

__all__ = [
    'BackboneFeatures',
    'ClassConsistency',
    'CodebookMetric',
    'FeatureExtractor',
    'FrechetMetric',
    'GenerationFrechet',
    'GenerationMetric',
    'GenerationStatistics',
    'InceptionFeatures',
    'LPIPSMetric',
    'ReconstructionMetric',
    'SourceRecoveryMetric',
    'extract_features',
    'linear_probe',
]
