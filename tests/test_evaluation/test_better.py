"""Metrics say which way they are better."""

from __future__ import annotations

import pytest
from mmengine.hooks import CheckpointHook

from mergevq_mm.engine.hooks import SafeCheckpointHook
from mergevq_mm.evaluation.better import better_rule


@pytest.mark.parametrize(
    ('key', 'expected'),
    [
        ('recon/K144/psnr', 'greater'),
        ('recon/K144/psnr_predicted', 'greater'),
        ('recon/K256/ssim', 'greater'),
        ('recon/K256/lpips_alex', 'less'),
        ('recon/K144/rfid', 'less'),
        ('recon/K144/rfid_predicted', 'less'),
        ('source/K16/acc', 'greater'),
        ('codebook/K16/usage', 'greater'),
        ('codebook/K16/usage_of_possible', 'greater'),
        ('codebook/K16/bit_entropy_min', 'greater'),
        ('gen/frechet', 'less'),
        ('gen/consistency', 'greater'),
        ('knn/k10', 'greater'),
        ('FID-5k/fid', 'less'),
        ('IS-50k/is', 'greater'),
        ('PR-10k/recall', 'greater'),
        ('gen/passes', None),
        ('keep', None),
        ('nothing', None),
    ],
)
def test_rules(key: str, expected: str | None) -> None:
    assert better_rule(key) == expected
    if expected is not None:
        assert SafeCheckpointHook(save_best=key).rules == [expected]
        # What the config says counts.
        hook = SafeCheckpointHook(save_best=key, rule='less')
        assert hook.rules == ['less']


def test_what_mmengine_knows_stays() -> None:
    for key in ('accuracy/top1', 'coco/bbox_mAP', 'val/loss'):
        assert SafeCheckpointHook(save_best=key).rules == (
            CheckpointHook(save_best=key).rules
        )
    several = SafeCheckpointHook(save_best=['recon/K4/rfid', 'recon/K4/psnr'])
    assert several.rules == ['less', 'greater']
    assert SafeCheckpointHook(save_best='recon/K4/psnr', less_keys=['recon/K4/psnr'])
    with pytest.raises(ValueError, match='Cannot infer the rule for key unknown'):
        SafeCheckpointHook(save_best='unknown')
