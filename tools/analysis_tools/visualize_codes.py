"""How a codebook is used: a PNG of rank, frequency and bits, out of extracted codes.

Examples (codes written by tools/extract_codes.py):
    python tools/analysis_tools/visualize_codes.py work_dirs/quickstart/codes
    python tools/analysis_tools/visualize_codes.py CODES --keep 144 --out usage.png
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

import mergevq_mm  # noqa: F401  first: makes the installed stack usable


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('codes', type=Path, help='folder of tools/extract_codes.py')
    parser.add_argument('--keep', type=int, help='K. Default: the smallest there is')
    parser.add_argument('--out', type=Path, default=Path('pictures/codes.png'))
    return parser.parse_args(argv)


def read_codes(folder: Path, keep: int | None) -> tuple[np.ndarray, int, int]:
    """All codes of a folder at one K.

    Args:
        folder (Path): Of ``tools/extract_codes.py``.
        keep (int, optional): K; None is the smallest.

    Returns:
        tuple[np.ndarray, int, int]: Indices N×K, bits of a code, K. Mirror images are
        left out.

    Raises:
        ValueError: If the folder holds no codes, or none of this K.
    """
    from mergevq_mm.datasets import MergeVQCodes

    codes = MergeVQCodes(folder, keep, flip_prob=0)
    keep = min(codes.keeps)
    index = [codes[i]['inputs'][f'index_K{keep}'].numpy() for i in range(len(codes))]
    return np.stack(index), codes.header.bits, keep


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    try:
        index, bits, keep = read_codes(args.codes, args.keep)
    except (FileNotFoundError, ValueError) as error:
        sys.exit(f'error: {error}')
    from mergevq_mm.visualization import code_usage_figure, figure_image, save_png

    figure = code_usage_figure(index, bits, f'K = {keep}, {len(index):,} images')
    save_png(args.out, figure_image(figure))
    print(args.out)


if __name__ == '__main__':
    main()
