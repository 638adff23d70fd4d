"""Statistics of real images that somebody has published, for Fréchet distances."""

from __future__ import annotations

import zipfile

import numpy as np

from mergevq_mm.utils.checkpoint import fetch_file

# What numpy raises at a file that is no .npz, or not the right one.
_DAMAGED = (OSError, EOFError, KeyError, TypeError, ValueError, zipfile.BadZipFile)


def read_published(file: str) -> tuple[np.ndarray, np.ndarray]:
    """Read statistics of real images that somebody has published.

    Args:
        file (str): Path or URL of an .npz with ``mu``, D, and ``sigma``, D×D.

    Returns:
        tuple[np.ndarray, np.ndarray]: Mean and covariance, float64.

    Raises:
        FileNotFoundError: If it is not there or cannot be fetched.
        ValueError: If it holds something else.
    """
    path = fetch_file(file)
    try:
        with np.load(path, allow_pickle=False) as stored:
            mean, cov = (stored[name].astype(np.float64) for name in ('mu', 'sigma'))
    except _DAMAGED as error:
        raise ValueError(
            f'statistics={file!r} is no .npz with mu and sigma ({error}); give one '
            'such as the reference batches of the ADM suite.'
        ) from error
    if mean.ndim != 1 or cov.shape != (len(mean),) * 2 or not np.isfinite(cov).all():
        raise ValueError(
            f'statistics={file!r} holds mu {mean.shape} and sigma {cov.shape}; '
            'expected are D and D×D finite numbers.'
        )
    return mean, cov
