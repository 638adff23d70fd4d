"""Metrics, feature extractors and probes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..base.tier import has_openmmlab
from .feature_extractors import BackboneFeatures, FeatureExtractor, InceptionFeatures
from .knn import knn_accuracy, knn_scores
from .probe import extract_features, linear_probe

if TYPE_CHECKING or has_openmmlab():  # registered by the import of this room
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


def __getattr__(name: str) -> Any:
    """Say of a metric what the small tier lacks for it (PEP 562)."""
    if name in __all__:
        from . import metrics

        return getattr(metrics, name)
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
