"""Hooks: complete and safe checkpoints, guards, averages, progress, pictures."""

from .generator_ema_hook import GeneratorEMAHook
from .nan_guard_hook import NaNGuardHook
from .progress_hook import ProgressHook
from .reconstruction_hook import ReconstructionVisualizationHook
from .run_state_hook import RunStateHook
from .safe_checkpoint_hook import SafeCheckpointHook
from .sample_hook import SampleVisualizationHook
from .tokenizer_check_hook import TokenizerCheckHook

__all__ = [
    'GeneratorEMAHook',
    'NaNGuardHook',
    'ProgressHook',
    'ReconstructionVisualizationHook',
    'RunStateHook',
    'SafeCheckpointHook',
    'SampleVisualizationHook',
    'TokenizerCheckHook',
]
