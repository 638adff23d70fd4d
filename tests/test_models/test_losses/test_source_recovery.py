import math

import pytest
import torch

import mergevq_mm  # noqa: F401
from mergevq_mm.models.losses import (
    SourceRecoveryLoss,
    source_binary_cross_entropy,
    source_cross_entropy,
)


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(2, 7, 4, generator=generator, dtype=torch.float64).float() * 2
    group = torch.randint(0, 4, (2, 7), generator=generator)
    index = torch.tensor([[9, 5, 9, 2], [1, 1, 1, 4]])
    return logits, group, index


def probabilities(logits):
    return torch.softmax(logits.double(), dim=-1).tolist()


def test_cross_entropy_equals_a_slow_loop(batch):
    logits, group, _ = batch
    p = probabilities(logits)
    terms = [-math.log(p[b][i][group[b, i]]) for b in range(2) for i in range(7)]
    expected = pytest.approx(sum(terms) / 14, rel=1e-5)
    assert source_cross_entropy(logits, group).item() == expected


def test_binary_form_is_equation_9(batch):
    logits, group, _ = batch
    p, terms = probabilities(logits), []
    for b in range(2):
        for i in range(7):
            for k in range(4):
                hit = p[b][i][k] if group[b, i] == k else 1 - p[b][i][k]
                terms.append(-math.log(hit))
    with torch.autocast('cpu', torch.bfloat16):
        loss = source_binary_cross_entropy(logits, group)
    assert loss.item() == pytest.approx(sum(terms) / len(terms), rel=1e-4)


def test_accuracies_by_hand():
    logits = torch.eye(3)[[0, 1, 2, 2]].unsqueeze(0)  # best: 0, 1, 2, 2
    group = torch.tensor([[0, 2, 1, 2]])
    index = torch.tensor([[8, 5, 5]])
    terms = SourceRecoveryLoss()(logits, group, index)
    assert terms['source_acc'] == 0.5 and terms['source_acc_codes'] == 1.0


def test_module_weighs_and_reports(batch):
    logits, group, index = batch
    terms = SourceRecoveryLoss(loss_weight=0.5, bce_weight=2.0)(logits, group, index)
    expected = source_cross_entropy(logits, group)
    expected = expected + 2 * source_binary_cross_entropy(logits, group)
    torch.testing.assert_close(terms['loss_source'], 0.5 * expected)
    assert set(terms) == {'loss_source', 'source_acc', 'source_acc_codes'}
    assert set(SourceRecoveryLoss()(logits, group)) == {'loss_source', 'source_acc'}


def test_extreme_scores_stay_finite():
    group, index = torch.tensor([[0, 1]]), torch.tensor([[7, 7, 3]])
    logits = (torch.tensor([[[-3e4, 0, 3e4], [3e4, -3e4, 0]]])).half().requires_grad_()
    loss = SourceRecoveryLoss(bce_weight=1.0)(logits, group, index)['loss_source']
    loss.backward()
    assert loss.isfinite() and logits.grad.isfinite().all()
