"""Stage 2: generators of a frozen tokenizer's codes."""

from .data_parallel import GuardedDistributedDataParallel
from .data_preprocessor import GeneratorDataPreprocessor
from .mergear import MergeAR
from .randar import RandAR
from .structures import CodeBatch, SampledCodes
from .token_generator import TokenGenerator
from .tokenizer import FrozenTokenizer

__all__ = [
    'CodeBatch',
    'FrozenTokenizer',
    'GeneratorDataPreprocessor',
    'GuardedDistributedDataParallel',
    'MergeAR',
    'RandAR',
    'SampledCodes',
    'TokenGenerator',
]
