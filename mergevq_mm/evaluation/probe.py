"""Linear probe of features on small data sets, without a training run.

Logistic regression by L-BFGS on standardised features: seconds for a few thousand
images, for summaries and tests. It is not the paper's protocol (spec section 12).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


def extract_features(
    encode: Callable[[Tensor], Tensor],
    dataset: Sequence[dict],
    data_preprocessor: nn.Module | None = None,
    batch_size: int = 100,
) -> tuple[np.ndarray, np.ndarray]:
    """Features and labels of a whole data set.

    Args:
        encode (Callable[[Tensor], Tensor]): Maps images B×3×H×W to features B×D. It is
            called without gradients; a module is put in evaluation mode and back.
        dataset (Sequence[dict]): Items with ``inputs`` (3×H×W, or a list of views of
            which the first is taken) and ``data_samples`` with ``gt_label``, as
            mmpretrain's ``PackInputs`` makes them.
        data_preprocessor (nn.Module, optional): The model's preprocessor, called on
            each batch first. Defaults to None, images as they come.
        batch_size (int): Images a call. Defaults to 100.

    Returns:
        tuple[np.ndarray, np.ndarray]: N×D float32 and N int64.

    Raises:
        ValueError: If the data set is empty.
    """
    if len(dataset) == 0:
        raise ValueError('dataset is empty; give at least one image.')
    was_training = isinstance(encode, nn.Module) and encode.training
    if was_training:
        encode.eval()
    features, labels = [], []
    with torch.no_grad():
        for batch in _batches(dataset, batch_size):
            inputs = batch['inputs']
            if data_preprocessor is not None:
                inputs = data_preprocessor(batch, training=False)['inputs']
            if isinstance(inputs, (list, tuple)):
                inputs = inputs[0]
            features.append(encode(inputs).float().cpu().numpy())
            labels += [int(sample.gt_label) for sample in batch['data_samples']]
    if was_training:
        encode.train()
    return np.concatenate(features), np.array(labels, dtype=np.int64)


def linear_probe(
    train_x: np.ndarray,
    train_y: np.ndarray,
    test_x: np.ndarray,
    test_y: np.ndarray,
    regularization: float | Sequence[float] = 1.0,
    standardize: bool = True,
    max_iter: int = 1000,
) -> float:
    """Accuracy of logistic regression on frozen features.

    scikit-learn's multinomial ``LogisticRegression`` (L2 penalty, L-BFGS to its default
    tolerance). Several values of ``regularization`` are compared on every fifth
    training image, after which the best one is fitted to all of them; the test set
    takes no part in the choice. That is the fairer comparison of features of different
    size: raw pixels want a much stronger penalty than the default.

    Args:
        train_x (np.ndarray): N×D.
        train_y (np.ndarray): N labels.
        test_x (np.ndarray): M×D.
        test_y (np.ndarray): M labels.
        regularization (float | Sequence[float]): scikit-learn's C, the inverse strength
            of the penalty; several to choose from. Defaults to 1.0.
        standardize (bool): Whether to bring each feature to mean 0 and deviation 1 on
            the training set first. Defaults to True.
        max_iter (int): Limit of iterations. Defaults to 1000; a few hundred are enough
            for standardised features.

    Returns:
        float: Share of right answers on the test set, in [0, 1].

    Raises:
        ValueError: If lengths do not fit or features are not finite.
    """
    for name, x, y in (('train', train_x, train_y), ('test', test_x, test_y)):
        if len(x) != len(y) or len(x) == 0 or not np.isfinite(x).all():
            raise ValueError(
                f'{name}_x with {len(x)} rows and {name}_y with {len(y)} labels must '
                'be equally long, not empty and finite; check the feature extraction.'
            )
    values = np.atleast_1d(regularization).tolist()
    best = values[0]
    if len(values) > 1:
        held = np.arange(len(train_x)) % 5 == 4
        parts = train_x[~held], train_y[~held], train_x[held], train_y[held]
        scores = [_fit_score(*parts, c, standardize, max_iter) for c in values]
        best = values[int(np.argmax(scores))]
    return _fit_score(train_x, train_y, test_x, test_y, best, standardize, max_iter)


def _fit_score(
    train_x: np.ndarray,
    train_y: np.ndarray,
    test_x: np.ndarray,
    test_y: np.ndarray,
    regularization: float,
    standardize: bool,
    max_iter: int,
) -> float:
    """Fit one regression and score it."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    steps = [StandardScaler()] if standardize else []
    steps.append(LogisticRegression(C=regularization, max_iter=max_iter))
    model = make_pipeline(*steps).fit(train_x.reshape(len(train_x), -1), train_y)
    return float(model.score(test_x.reshape(len(test_x), -1), test_y))


def _batches(dataset: Sequence[dict], size: int) -> Iterator[dict[str, Any]]:
    """Stack the items of a data set in its order."""
    for start in range(0, len(dataset), size):
        items = [dataset[i] for i in range(start, min(start + size, len(dataset)))]
        inputs = [item['inputs'] for item in items]
        if isinstance(inputs[0], (list, tuple)):
            stacked: Any = [torch.stack(view) for view in zip(*inputs)]
        else:
            stacked = torch.stack(inputs)
        yield {'inputs': stacked, 'data_samples': [i['data_samples'] for i in items]}
