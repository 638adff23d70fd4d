"""Hooks: complete and safe checkpoints, guards, averages, progress, pictures."""

from .class_check_hook import ClassCheckHook
from .damaged_files_hook import DamagedFilesHook
from .generator_ema_hook import GeneratorEMAHook
from .merge_growth_hook import MergeGrowthVisualizationHook
from .nan_guard_hook import NaNGuardHook
from .plot_hooks import (
    CacheVisualizationHook,
    CodeUsageVisualizationHook,
    CurvesVisualizationHook,
)
from .preemption_hook import PreemptionHook
from .progress_hook import ProgressHook
from .reconstruction_hook import ReconstructionVisualizationHook
from .resumed_schedules_hook import ResumedSchedulesHook
from .run_state_hook import RunStateHook
from .safe_checkpoint_hook import SafeCheckpointHook
from .sample_hook import SampleVisualizationHook
from .speed_hook import SpeedHook
from .tokenizer_check_hook import TokenizerCheckHook
from .work_dir_lock_hook import WorkDirLockHook

__all__ = [
    'CacheVisualizationHook',
    'ClassCheckHook',
    'CodeUsageVisualizationHook',
    'CurvesVisualizationHook',
    'DamagedFilesHook',
    'GeneratorEMAHook',
    'MergeGrowthVisualizationHook',
    'NaNGuardHook',
    'PreemptionHook',
    'ProgressHook',
    'ReconstructionVisualizationHook',
    'ResumedSchedulesHook',
    'RunStateHook',
    'SafeCheckpointHook',
    'SampleVisualizationHook',
    'SpeedHook',
    'TokenizerCheckHook',
    'WorkDirLockHook',
]
