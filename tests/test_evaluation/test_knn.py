"""Weighted k-NN against scikit-learn and a slow loop, and its metric."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.neighbors import KNeighborsClassifier

from mergevq_mm.evaluation import knn_accuracy, knn_scores
from mergevq_mm.registry import METRICS


def digits() -> tuple[torch.Tensor, ...]:
    """scikit-learn's real 8×8 digits: 1,200 in the gallery, 597 to classify."""
    x, y = (torch.from_numpy(part) for part in load_digits(return_X_y=True))
    return x[:1200].float(), y[:1200].long(), x[1200:].float(), y[1200:].long()


@pytest.mark.parametrize('k', [1, 10, 200])
def test_equals_sklearn_with_the_same_weights(k: int) -> None:
    gallery, labels, queries, truth = digits()
    temperature = 0.07

    def weigh(distance: np.ndarray) -> np.ndarray:
        return np.exp((1 - distance) / temperature)  # its distance is 1 - cosine

    reference = KNeighborsClassifier(k, weights=weigh, metric='cosine')
    reference.fit(gallery.double().numpy(), labels.numpy())
    expected = reference.predict_proba(queries.double().numpy())
    scores = knn_scores(gallery, labels, queries, [k], temperature)[k]
    np.testing.assert_allclose(scores.numpy(), expected, atol=2e-5)
    accuracy = knn_accuracy(gallery, labels, queries, truth, [k], temperature)[k]
    assert accuracy == pytest.approx(
        reference.score(queries.double().numpy(), truth.numpy()), abs=1e-6
    )


def test_equals_a_slow_loop() -> None:
    gallery, queries = torch.randn(12, 3), torch.randn(5, 3)
    labels = torch.arange(12) % 4
    scores = knn_scores(gallery, labels, queries, [3, 7], 0.5, chunk_size=2)
    for k in (3, 7):
        for m in range(5):
            cosines = []
            for n in range(12):
                a, b = queries[m].tolist(), gallery[n].tolist()
                dot = sum(p * q for p, q in zip(a, b, strict=True))
                norms = math.sqrt(sum(p * p for p in a) * sum(q * q for q in b))
                cosines.append((dot / norms, int(labels[n])))
            votes = [0.0] * 4
            for cosine, label in sorted(cosines, reverse=True)[:k]:
                votes[label] += math.exp(cosine / 0.5)
            for c in range(4):
                assert float(scores[k][m, c]) == pytest.approx(
                    votes[c] / sum(votes), abs=1e-5
                )


def test_small_temperatures_do_not_overflow() -> None:
    gallery = torch.randn(20, 4)
    scores = knn_scores(gallery, torch.arange(20) % 2, gallery, [5], temperature=1e-3)
    assert torch.isfinite(scores[5]).all()
    assert (scores[5].argmax(1) == torch.arange(20) % 2).all()  # each finds itself


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (dict(ks=[11]), r'ks=\[11\] must lie in \[1, 10\]'),
        (dict(ks=[]), 'must lie in'),
        (dict(temperature=0.0), 'temperature=0.0 must be positive'),
        (dict(queries=torch.zeros(2, 5)), 'same width'),
        (dict(labels=torch.zeros(9).long()), 'give one label each'),
    ],
)
def test_refuses(change: dict, message: str) -> None:
    given = dict(
        gallery=torch.randn(10, 4),
        labels=torch.zeros(10).long(),
        queries=torch.randn(2, 4),
        ks=[3],
    )
    with pytest.raises(ValueError, match=message):
        knn_scores(**{**given, **change})


def samples() -> list[dict]:
    """Predictions of the digits as a test loop hands them to a metric."""
    gallery, labels, queries, truth = digits()
    return [
        {'feature': row, 'gt_label': label, 'img_path': f'data/{folder}/x.png'}
        for folder, rows, numbers in (
            ('train', gallery, labels),
            ('val', queries, truth),
        )
        for row, label in zip(rows, numbers, strict=True)
    ]


def test_metric_equals_the_function() -> None:
    metric = METRICS.build(dict(type='mergevq_mm.KNNAccuracy', ks=[5, 20]))
    predictions = samples()
    order = np.random.default_rng(0).permutation(len(predictions))
    for start in range(0, len(order), 500):
        metric.process(None, [predictions[i] for i in order[start : start + 500]])
    found = metric.evaluate(len(predictions))
    expected = knn_accuracy(*digits(), ks=[5, 20])
    # The grey values 0 to 16 are exact in float16.
    for k in (5, 20):
        assert found[f'knn/k{k}'] == pytest.approx(100 * expected[k], abs=0.2)


def test_metric_needs_both_sides() -> None:
    metric = METRICS.build(dict(type='mergevq_mm.KNNAccuracy', ks=[1], gallery='g'))
    metric.process(None, samples()[:3])
    with pytest.raises(ValueError, match="gallery='g' is a folder of 0 of the 3"):
        metric.evaluate(3)
