"""Weighted k-nearest-neighbour classification of features, as DINO evaluates them.

Features are compared by cosine. Each of the k nearest gallery features votes for its
class with the weight exp(cosine / temperature); the class with most weight wins.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

KS = (10, 20, 100, 200)
TEMPERATURE = 0.07


def knn_scores(
    gallery: Tensor,
    labels: Tensor,
    queries: Tensor,
    ks: Sequence[int] = KS,
    temperature: float = TEMPERATURE,
    num_classes: int | None = None,
    chunk_size: int = 512,
) -> dict[int, Tensor]:
    """Weight of the votes for each class, for several k at once.

    The similarities are computed once, a chunk of queries at a time, so that memory
    holds ``chunk_size`` × N of them.

    Args:
        gallery (Tensor): Features that vote, N×D.
        labels (Tensor): Their classes, N int64.
        queries (Tensor): Features to classify, M×D.
        ks (Sequence[int]): Numbers of neighbours, each at most N. Defaults to 10, 20,
            100 and 200.
        temperature (float): Of the weights. Defaults to 0.07.
        num_classes (int, optional): Defaults to None, the largest label and one.
        chunk_size (int): Queries a chunk. Defaults to 512.

    Returns:
        dict[int, Tensor]: k to M×C float32; a row sums to 1.

    Raises:
        ValueError: If shapes do not fit, k is out of range or the temperature is not
            positive.
    """
    _check(gallery, labels, queries, ks, temperature)
    if num_classes is None:
        num_classes = int(labels.max()) + 1
    gallery = F.normalize(gallery.float(), dim=1)
    scores: dict[int, list[Tensor]] = {k: [] for k in ks}
    for chunk in queries.split(chunk_size):
        cosine = F.normalize(chunk.float(), dim=1) @ gallery.T  # m×N
        near, index = cosine.topk(max(ks), dim=1)  # m×k, the nearest first
        # Relative to the nearest, or exp overflows at small temperatures.
        weight = ((near - near[:, :1]) / temperature).exp()
        voted = labels[index]
        for k in ks:
            votes = weight.new_zeros(len(chunk), num_classes)
            votes.scatter_add_(1, voted[:, :k], weight[:, :k])
            scores[k].append(votes / votes.sum(dim=1, keepdim=True))
    return {k: torch.cat(parts) for k, parts in scores.items()}


def knn_accuracy(
    gallery: Tensor,
    labels: Tensor,
    queries: Tensor,
    query_labels: Tensor,
    ks: Sequence[int] = KS,
    temperature: float = TEMPERATURE,
) -> dict[int, float]:
    """Share of queries whose class the neighbours name, for each k.

    Args:
        gallery (Tensor): Features that vote, N×D.
        labels (Tensor): Their classes, N int64.
        queries (Tensor): Features to classify, M×D.
        query_labels (Tensor): Their classes, M int64.
        ks (Sequence[int]): Numbers of neighbours. Defaults to 10, 20, 100 and 200.
        temperature (float): Of the weights. Defaults to 0.07.

    Returns:
        dict[int, float]: k to the accuracy in [0, 1].

    Raises:
        ValueError: As :func:`knn_scores`, or if queries and their labels differ in
            number.
    """
    if len(queries) != len(query_labels):
        raise ValueError(
            f'queries has {len(queries)} rows and query_labels {len(query_labels)}; '
            'give one label each.'
        )
    scores = knn_scores(gallery, labels, queries, ks, temperature)
    return {
        k: float((score.argmax(dim=1) == query_labels).double().mean())
        for k, score in scores.items()
    }


def _check(
    gallery: Tensor,
    labels: Tensor,
    queries: Tensor,
    ks: Sequence[int],
    temperature: float,
) -> None:
    """Refuse what cannot be classified."""
    if gallery.ndim != 2 or queries.ndim != 2 or gallery.shape[1] != queries.shape[1]:
        raise ValueError(
            f'gallery {tuple(gallery.shape)} and queries {tuple(queries.shape)} must '
            'be matrices of the same width; extract both with one encoder.'
        )
    if len(gallery) != len(labels) or len(queries) == 0:
        raise ValueError(
            f'gallery has {len(gallery)} rows, labels {len(labels)} and queries '
            f'{len(queries)}; give one label each, and at least one query.'
        )
    if not ks or min(ks) < 1 or max(ks) > len(gallery):
        raise ValueError(
            f'ks={list(ks)} must lie in [1, {len(gallery)}], the number of gallery '
            'features; choose smaller k or a larger gallery.'
        )
    if not temperature > 0:
        raise ValueError(f'temperature={temperature} must be positive; DINO has 0.07.')
