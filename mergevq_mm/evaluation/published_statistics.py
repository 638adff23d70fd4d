"""Statistics of real images that somebody has published, for Fréchet distances."""

from __future__ import annotations

import numpy as np

from mergevq_mm.utils.array_file import read_arrays
from mergevq_mm.utils.checkpoint import fetch_file


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
        # Those of the ADM suite also hold 2 GB of images.
        stored, _ = read_arrays(path, ('mu', 'sigma'))
        mean, cov = (stored[name].astype(np.float64) for name in ('mu', 'sigma'))
    except (KeyError, TypeError, ValueError) as error:
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
