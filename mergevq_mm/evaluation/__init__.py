"""Metrics, feature extractors and probes."""

from .feature_extractors import BackboneFeatures, FeatureExtractor, InceptionFeatures
from .knn import knn_accuracy, knn_scores
from .metrics import (
    ClassConsistency,
    CodebookMetric,
    FrechetMetric,
    GenerationFrechet,
    GenerationMetric,
    GenerationStatistics,
    InceptionFID,
    KNNAccuracy,
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
    'InceptionFID',
    'InceptionFeatures',
    'KNNAccuracy',
    'LPIPSMetric',
    'ReconstructionMetric',
    'SourceRecoveryMetric',
    'extract_features',
    'knn_accuracy',
    'knn_scores',
    'linear_probe',
]
