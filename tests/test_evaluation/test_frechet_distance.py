import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from torchmetrics.image.fid import FrechetInceptionDistance, _compute_fid

from mergevq_mm.evaluation.functional import (
    frechet_distance,
    gaussian_distance,
    gaussian_moments,
)


def test_diagonal_gaussians_analytically():
    rng = np.random.default_rng(0)
    mean_a, mean_b = rng.normal(size=(2, 12))
    std_a, std_b = rng.uniform(0, 3, size=(2, 12))
    expected = ((mean_a - mean_b) ** 2).sum() + ((std_a - std_b) ** 2).sum()
    covariances = np.diag(std_a**2), np.diag(std_b**2)
    found = gaussian_distance(mean_a, covariances[0], mean_b, covariances[1])
    assert found == pytest.approx(expected, rel=1e-10)
    # A common rotation changes nothing.
    q, _ = np.linalg.qr(rng.normal(size=(12, 12)))
    found = gaussian_distance(
        q @ mean_a, q @ covariances[0] @ q.T, q @ mean_b, q @ covariances[1] @ q.T
    )
    assert found == pytest.approx(expected, rel=1e-10)


def test_equals_scipy_and_torchmetrics():
    rng = np.random.default_rng(1)
    mix = rng.normal(size=(8, 8))
    a, b = rng.normal(size=(300, 8)), rng.normal(size=(200, 8)) @ mix + 0.3
    (mean_a, cov_a), (mean_b, cov_b) = gaussian_moments(a), gaussian_moments(b)
    np.testing.assert_allclose(cov_a, np.cov(a, rowvar=False), atol=1e-12)
    root = sqrtm(cov_a @ cov_b).real
    expected = ((mean_a - mean_b) ** 2).sum() + np.trace(cov_a + cov_b - 2 * root)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-9)
    theirs = _compute_fid(*map(torch.from_numpy, (mean_a, cov_a, mean_b, cov_b)))
    assert frechet_distance(a, b) == pytest.approx(theirs.item(), rel=1e-9)
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a), rel=1e-9)


def test_equals_whole_torchmetrics_metric():
    images = torch.rand(2, 60, 3, 8, 8)
    pool = torch.nn.Sequential(torch.nn.AvgPool2d(4), torch.nn.Flatten())
    pool.num_features = 12
    metric = FrechetInceptionDistance(pool, normalize=True).set_dtype(torch.float64)
    for real, batch in zip((True, False), images.double()):
        metric.update(batch, real=real)
    found = frechet_distance(pool(images[0]).numpy(), pool(images[1]).numpy())
    assert found == pytest.approx(metric.compute().item(), rel=1e-5)


def test_singular_covariances():
    rng = np.random.default_rng(2)
    a = rng.normal(size=(10, 64)).astype(np.float32)  # rank 9 of 64
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-5)
    assert frechet_distance(a, a + 2) == pytest.approx(4 * 64, rel=1e-6)
    assert frechet_distance(a, 3 * a) == pytest.approx(
        4 * (a.mean(0) ** 2).sum() + 4 * a.var(0, ddof=1).sum(), rel=1e-5
    )


def test_bad_features():
    with pytest.raises(ValueError, match='at least two images'):
        gaussian_moments(np.ones((1, 4)))
    with pytest.raises(ValueError, match='NaN or infinity'):
        gaussian_moments(np.array([[1.0, np.nan], [0.0, 1.0]]))
