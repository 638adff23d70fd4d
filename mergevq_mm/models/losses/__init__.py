"""Losses of stage 1: adversarial, perceptual, source recovery, alignment."""

from .adversarial import (
    LeCAM,
    hinge_discriminator_loss,
    lecam_regularizer,
    nonsaturating_generator_loss,
)
from .alignment import (
    DINOAlignmentLoss,
    DistillationKLLoss,
    dino_cross_entropy,
    distillation_kl,
)
from .perceptual import LPIPSLoss, PerceptualLoss, feature_distance
from .source_recovery import (
    SourceRecoveryLoss,
    source_binary_cross_entropy,
    source_cross_entropy,
)

__all__ = [
    'DINOAlignmentLoss',
    'DistillationKLLoss',
    'LPIPSLoss',
    'LeCAM',
    'PerceptualLoss',
    'SourceRecoveryLoss',
    'dino_cross_entropy',
    'distillation_kl',
    'feature_distance',
    'hinge_discriminator_loss',
    'lecam_regularizer',
    'nonsaturating_generator_loss',
    'source_binary_cross_entropy',
    'source_cross_entropy',
]
