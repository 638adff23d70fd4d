import math

import pytest
import torch
from torchmetrics.functional import kl_divergence

import mergevq_mm  # noqa: F401
from mergevq_mm.models.heads import AlignmentHead
from mergevq_mm.models.losses import (
    DINOAlignmentLoss,
    dino_cross_entropy,
    distillation_kl,
)


def test_kl_equals_torchmetrics():
    torch.manual_seed(0)
    student, target = torch.randn(5, 8) * 3, torch.randn(5, 8) * 3
    p, q = (target / 4).softmax(1), (student / 4).softmax(1)
    expected = kl_divergence(p, q, reduction='mean') * 16
    torch.testing.assert_close(distillation_kl(student, target), expected)
    assert distillation_kl(target, target).item() == pytest.approx(0, abs=1e-6)


def test_kl_has_the_gradient_of_the_cross_entropy():
    torch.manual_seed(0)
    student = torch.randn(5, 8, requires_grad=True)
    target = torch.randn(5, 8)
    (grad,) = torch.autograd.grad(distillation_kl(student, target), student)
    cross = -((target / 4).softmax(1) * (student / 4).log_softmax(1)).sum(1).mean()
    (expected,) = torch.autograd.grad(cross * 16, student)
    torch.testing.assert_close(grad, expected)


def test_cosine_by_hand():
    student = torch.tensor([[2.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    target = torch.tensor([[1.0, 0.0], [0.0, -4.0], [1.0, 0.0]])
    expected = 1 - (1 - 1 + math.sqrt(0.5)) / 3
    head = AlignmentHead(2, 2, layers=2, loss='cosine', loss_weight=3.0)
    head.projector = torch.nn.Identity()
    found = head(student, target)
    assert found['loss_align'].item() == pytest.approx(3 * expected)
    assert found['align_cos'].item() == pytest.approx(1 - expected)


def test_dino_equals_a_slow_loop_and_its_centre_follows():
    torch.manual_seed(0)
    loss_module = DINOAlignmentLoss(6, center_momentum=0.9)
    center = [0.0] * 6
    for _ in range(3):
        student, target = torch.randn(4, 6), torch.randn(4, 6) * 0.1
        total = 0.0
        for s, t in zip(student.tolist(), target.tolist()):
            teacher = [math.exp((v - c) / 0.04) for v, c in zip(t, center)]
            log_norm = math.log(sum(math.exp(v / 0.1) for v in s))
            for weight, v in zip(teacher, s):
                total -= weight / sum(teacher) * (v / 0.1 - log_norm)
        loss = loss_module(student, target)
        assert loss.item() == pytest.approx(total / 4, rel=1e-5)
        mean = target.mean(0).tolist()
        center = [0.9 * c + 0.1 * m for c, m in zip(center, mean)]
        assert loss_module.center.tolist() == pytest.approx(center, abs=1e-7)
    assert 'center' in loss_module.state_dict()
    before = loss_module.center.clone()
    loss_module.eval()(student, target)
    assert torch.equal(loss_module.center, before)


def test_centring_takes_out_what_all_images_share():
    student = torch.zeros(2, 4)
    target = torch.tensor([[5.0, 0, 0, 0], [5.0, 0, 0, 0]])
    # With the shared part removed the teacher is uniform, as the student: log 4.
    loss = dino_cross_entropy(student, target, target.mean(0))
    assert loss.item() == pytest.approx(math.log(4))


def test_half_precision_features_are_compared_in_float32():
    torch.manual_seed(0)
    student, target = torch.randn(3, 8).half() * 100, torch.randn(3, 8).half() * 100
    loss = distillation_kl(student, target)
    assert loss.dtype == torch.float32 and loss.isfinite()
