"""The share of generated images that show the class that was asked for."""

from __future__ import annotations

import pytest
import torch
from mmengine.registry import DefaultScope

from mergevq_mm.evaluation import ClassConsistency

JUDGE = dict(
    type='mmpretrain.ImageClassifier',
    backbone=dict(type='LeNet5', num_classes=10),  # a bare name of mmpretrain's
    head=dict(type='ClsHead'),
)


def make(number: int) -> ClassConsistency:
    with DefaultScope.overwrite_default_scope('mmagic'):  # the scope of generation
        return ClassConsistency(JUDGE, number, grey=True, random_init=True)


@pytest.fixture
def images() -> torch.Tensor:
    """Grey values 0..255, BGR."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (8, 3, 32, 32), generator=generator).float()


def test_shares(images):
    metric = make(8)
    network = metric.classifier.network.eval()
    rgb = images.flip(1) / 127.5 - 1
    with torch.no_grad():
        seen = network.backbone(rgb.mean(1, keepdim=True))[-1].argmax(1).tolist()
    # Six right; the others ask for a class that the judge does not see.
    asked = [*seen[:6], (seen[6] + 1) % 10, (seen[7] + 1) % 10]
    samples = [
        {'fake_img': image, 'gt_label': {'label': torch.tensor([label])}}
        for image, label in zip(images, asked, strict=True)
    ]
    metric.process(None, samples[:5])
    metric.process(None, samples[5:])
    values = metric.evaluate()
    worst = min(
        sum(a == s for a, s in zip(asked, seen, strict=True) if a == label)
        / asked.count(label)
        for label in set(asked)
    )
    assert values['gen/consistency'] == pytest.approx(75.0)
    assert values['gen/consistency_worst'] == pytest.approx(100 * worst)


def test_takes_no_more_than_it_needs(images):
    metric = make(2)
    metric.process(None, [{'fake_img': i, 'gt_label': 0} for i in images])
    assert len(metric.results) == 2


def test_refuses():
    with pytest.raises(ValueError, match='has no weights'):
        ClassConsistency(JUDGE, 8)
    metric = make(8)
    with pytest.raises(ValueError, match='fake_nums=8'):
        metric.compute_metrics([(1, 1)])
