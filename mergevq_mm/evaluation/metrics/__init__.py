"""Metrics: of stage 1, each at every K of the validation, and of generated images."""

from .class_consistency import ClassConsistency
from .codebook import CodebookMetric
from .frechet import FrechetMetric
from .generation import GenerationMetric, GenerationStatistics
from .generation_frechet import GenerationFrechet
from .inception_fid import InceptionFID
from .knn import KNNAccuracy
from .lpips import LPIPSMetric
from .reconstruction import ReconstructionMetric
from .source_recovery import SourceRecoveryMetric

__all__ = [
    'ClassConsistency',
    'CodebookMetric',
    'FrechetMetric',
    'GenerationFrechet',
    'GenerationMetric',
    'GenerationStatistics',
    'InceptionFID',
    'KNNAccuracy',
    'LPIPSMetric',
    'ReconstructionMetric',
    'SourceRecoveryMetric',
]
