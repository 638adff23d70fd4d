"""The flags that say how many tokens to keep: K, or a budget that gives images their K.

Plain argparse, for ``--help`` and for the tools beside the package.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mergevq_mm.models.utils.budget import Budget


def keep_of(text: str) -> int | float | None:
    """A number of tokens, a share of them, or 'all'.

    Args:
        text (str): From the command line.

    Returns:
        int | float: For an inferencer; 'all' is the share 1.
    """
    if text == 'all':
        return 1.0
    return float(text) if '.' in text else int(text)


keep_of.__name__ = 'K'  # argparse names it where a text is neither


def add_budget(parser: Any) -> None:
    """Add the flags of a budget.

    Args:
        parser (ArgumentParser | _MutuallyExclusiveGroup): At most one may be given.
    """
    parser.add_argument(
        '--mean-tokens',
        type=keep_of,
        metavar='K',
        help='a K for each image, so many (or such a share) on average over a batch: '
        'tokens go where they raise the PSNR most',
    )
    parser.add_argument(
        '--min-similarity',
        type=float,
        metavar='COSINE',
        help='a K for each image, the fewest tokens that are so similar to what they '
        'stand for, such as 0.95',
    )
    parser.add_argument(
        '--min-psnr',
        type=float,
        metavar='DB',
        help='a K for each image, the fewest tokens that reconstruct it with so many '
        'dB, as far as any do',
    )


def budget_of(
    args: argparse.Namespace,
    by: str | None = None,
    keeps: Sequence[int] | None = None,
) -> Budget | None:
    """The budget that the flags of :func:`add_budget` ask for.

    Args:
        args (Namespace): The command line.
        by (str, optional): What a mean is spent on, see :class:`~mergevq_mm.Budget`.
            Defaults to None.
        keeps (Sequence[int], optional): K to choose from. Defaults to None.

    Returns:
        Budget | None: None, if they are not given.

    Raises:
        ValueError: If a number is out of range.
    """
    aims = {
        'mean': args.mean_tokens,
        'similarity': args.min_similarity,
        'psnr': args.min_psnr,
    }
    if all(value is None for value in aims.values()):
        return None
    from mergevq_mm.models.utils.budget import Budget

    return Budget(**aims, by=by if aims['mean'] is not None else None, keeps=keeps)
