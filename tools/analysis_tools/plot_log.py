"""Curves of a training out of its logs, resumed runs included.

Examples:
    python tools/analysis_tools/plot_log.py work_dirs/mergevq_g+r
    python tools/analysis_tools/plot_log.py work_dirs/a --keys loss recon/K144
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import mergevq_mm  # noqa: F401  first: makes the installed stack usable


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('work_dir', type=Path, help='work dir of a run, or a log')
    parser.add_argument(
        '--keys', nargs='+', help='what names begin with. Default: everything'
    )
    parser.add_argument(
        '--smooth', type=int, default=3, help='neighbours on each side (default: 3)'
    )
    parser.add_argument('--columns', type=int, default=4, help='default: 4')
    parser.add_argument('--out', type=Path, default=Path('pictures/curves.png'))
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    from mergevq_mm.visualization import (
        curves_figure,
        figure_image,
        find_logs,
        read_curves,
        save_png,
    )

    try:
        curves = read_curves(find_logs(args.work_dir))
        figure = curves_figure(
            curves, args.keys, args.work_dir.name, args.smooth, args.columns
        )
    except (FileNotFoundError, ValueError) as error:
        sys.exit(f'error: {error}')
    save_png(args.out, figure_image(figure))
    print(args.out)


if __name__ == '__main__':
    main()
