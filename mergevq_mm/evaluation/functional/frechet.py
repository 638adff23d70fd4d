"""The Fréchet distance between two sets of features, in float64.

The term tr((Σ₁Σ₂)^½) is taken as Σ sqrt(eigenvalues of Σ₁^½ Σ₂ Σ₁^½): this matrix is
symmetric and positive semi-definite, so the usual general matrix square root with its
complex rounding noise is not needed, and singular covariances (fewer images than
features) are no special case.
"""

from __future__ import annotations

import numpy as np


def gaussian_moments(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and unbiased covariance of a set of features.

    Args:
        features (np.ndarray): N×D.

    Returns:
        tuple[np.ndarray, np.ndarray]: D and D×D, float64.

    Raises:
        ValueError: If there are fewer than two images, or features that are not finite.
    """
    features = np.asarray(features, dtype=np.float64)
    if features.ndim != 2 or len(features) < 2:
        raise ValueError(
            f'features of shape {features.shape} have no covariance; give N×D with at '
            'least two images.'
        )
    if not np.isfinite(features).all():
        raise ValueError(
            'features hold NaN or infinity; check the images (a diverged model?) and '
            "the extractor's weights."
        )
    mean = features.mean(0)
    centred = features - mean
    return mean, centred.T @ centred / (len(features) - 1)


def matrix_root(cov: np.ndarray) -> np.ndarray:
    """The symmetric square root of a covariance, D×D."""
    values, vectors = np.linalg.eigh(cov)
    return vectors * np.sqrt(values.clip(min=0)) @ vectors.T


def gaussian_distance(
    mean_a: np.ndarray,
    cov_a: np.ndarray,
    mean_b: np.ndarray,
    cov_b: np.ndarray,
    root_a: np.ndarray | None = None,
) -> float:
    """Squared Fréchet (2-Wasserstein) distance between two Gaussians.

    ``|μ₁ - μ₂|² + tr(Σ₁) + tr(Σ₂) - 2 tr((Σ₁Σ₂)^½)``

    Args:
        mean_a (np.ndarray): D.
        cov_a (np.ndarray): D×D, symmetric.
        mean_b (np.ndarray): D.
        cov_b (np.ndarray): D×D, symmetric.
        root_a (np.ndarray, optional): :func:`matrix_root` of ``cov_a``, where it is
            compared more than once. Defaults to None.

    Returns:
        float: The distance, at least 0.
    """
    root = matrix_root(cov_a) if root_a is None else root_a
    product = root @ cov_b @ root
    eigenvalues = np.linalg.eigvalsh((product + product.T) / 2)
    cross = np.sqrt(eigenvalues.clip(min=0)).sum()
    offset = np.square(mean_a - mean_b).sum()
    return max(float(offset + np.trace(cov_a) + np.trace(cov_b) - 2 * cross), 0.0)


def frechet_distance(features_a: np.ndarray, features_b: np.ndarray) -> float:
    """Fréchet distance between the Gaussians fitted to two sets of features.

    Args:
        features_a (np.ndarray): N×D.
        features_b (np.ndarray): M×D.

    Returns:
        float: The distance, at least 0. Depends on N and M: compare equal counts only.

    Raises:
        ValueError: If a set has fewer than two rows or values that are not finite.
    """
    return gaussian_distance(
        *gaussian_moments(features_a), *gaussian_moments(features_b)
    )
