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


def add_budget(parser: Any, decoder: bool = True) -> None:
    """Add the flags of a budget.

    Args:
        parser (ArgumentParser | _ArgumentGroup): Of the command.
        decoder (bool): Whether images can be decoded to find the PSNR; else tokens are
            spent by similarity. Defaults to True.
    """
    spent = 'they raise the PSNR most' if decoder else 'what merges is least similar'
    parser.add_argument(
        '--mean-tokens',
        type=keep_of,
        metavar='K',
        help='a K for each image, so many (or such a share) on average over a batch '
        f'(of images of one size, of large ones fewer): tokens go where {spent}',
    )
    parser.add_argument(
        '--min-similarity',
        type=float,
        metavar='COSINE',
        help='a K for each image, the fewest tokens that are so similar to what they '
        'stand for, such as 0.95',
    )
    if decoder:
        parser.add_argument(
            '--min-psnr',
            type=float,
            metavar='DB',
            help='a K for each image, the fewest tokens that reconstruct it with so '
            'many dB, as far as any do',
        )


def budget_of(
    args: argparse.Namespace, keeps: Sequence[int] | None = None
) -> Budget | None:
    """The budget that the flags of :func:`add_budget` ask for.

    Args:
        args (Namespace): The command line.
        keeps (Sequence[int], optional): K to choose from. Defaults to None.

    Returns:
        Budget | None: None, if they are not given.

    Raises:
        ValueError: If they contradict each other or ``--keep``, where that is not what
            is chosen from; or a number is out of range.
    """
    flags = {
        name: value
        for name in ('keep', 'mean_tokens', 'min_similarity', 'min_psnr')
        if (value := getattr(args, name, None)) is not None
    }
    if keeps is not None:
        del flags['keep']
    if len(flags) > 1:
        named = ' and '.join(f'--{name.replace("_", "-")}' for name in flags)
        raise ValueError(f'{named} contradict each other; leave one out.')
    if not flags or 'keep' in flags:
        return None
    from mergevq_mm.models.utils.budget import Budget

    mean, psnr = args.mean_tokens, flags.get('min_psnr')
    by = None if mean is None or hasattr(args, 'min_psnr') else 'similarity'
    return Budget(mean, args.min_similarity, psnr, by, keeps)
