"""Modules and models: mmengine's, or those of the small tier."""

from typing import TYPE_CHECKING

from .tier import has_openmmlab

if not TYPE_CHECKING and has_openmmlab():
    from mmengine.model import (
        BaseDataPreprocessor,
        BaseModel,
        BaseModule,
        BaseTTAModel,
        ExponentialMovingAverage,
        MMDistributedDataParallel,
        is_model_wrapper,
    )
else:
    from .small.module import (
        BaseDataPreprocessor,
        BaseModel,
        BaseModule,
        BaseTTAModel,
        ExponentialMovingAverage,
        MMDistributedDataParallel,
        is_model_wrapper,
    )

__all__ = [
    'BaseDataPreprocessor',
    'BaseModel',
    'BaseModule',
    'BaseTTAModel',
    'ExponentialMovingAverage',
    'MMDistributedDataParallel',
    'is_model_wrapper',
]
