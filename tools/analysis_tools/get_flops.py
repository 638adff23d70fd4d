"""Prints parameters and multiply-accumulates of a tokenizer or a generator by part.

    python tools/analysis_tools/get_flops.py configs/mergevq_g+r.py --keep 144 256
    python tools/analysis_tools/get_flops.py mergevq_r --shape 224 --keep 0.25
    python tools/analysis_tools/get_flops.py configs/mergear_l_g+r.py

Nothing is computed and no weights are needed: operations are counted on torch's meta
device. MACs are those of one image, or of one sequence of codes.
"""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

import mergevq_mm  # noqa: F401  first: makes the installed stack usable


def number(text: str) -> int | float:
    """K, or a share of L."""
    return float(text) if '.' in text else int(text)


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('config', help='path of a config or folder, or name of a model')
    parser.add_argument(
        '--shape',
        type=int,
        nargs='+',
        help="side, or height and width, of the image (default: the config's)",
    )
    parser.add_argument(
        '--keep',
        type=number,
        nargs='+',
        help='numbers of tokens to keep, or shares such as 0.25 (default: all of them '
        'for a tokenizer, the target for a generator)',
    )
    parser.add_argument(
        '--schedule',
        help="of merging: linear, constant, square or one that the config's imports "
        "add (default: the config's)",
    )
    parser.add_argument('--json', type=Path, help='also write the numbers to this file')
    args = parser.parse_args(argv)
    if args.shape is not None and len(args.shape) > 2:
        parser.error('--shape takes one or two numbers')
    return args


def report(args: argparse.Namespace) -> list[dict]:
    """Rows of the table.

    Args:
        args (Namespace): Of :func:`parse_args`.

    Returns:
        list[dict]: A row for each K and part.

    Raises:
        ValueError: If an argument does not fit the model.
        FileNotFoundError: If there is no such config.
    """
    from mergevq_mm.apis.model_config import complete_model, read_model_config
    from mergevq_mm.utils.export import read_config
    from mergevq_mm.utils.flops import model_costs

    if Path(args.config).is_dir():
        model = read_config(args.config)[0]
    else:
        config = read_model_config(args.config)[0]
        complete_model(config)
        model = config.model.to_dict()
    size = None if args.shape is None else (args.shape[0], args.shape[-1])
    rows = []
    for keep in args.keep or [None]:
        for cost in model_costs(model, size, keep, args.schedule):
            rows.append({'keep': keep, **cost._asdict(), 'macs': cost.macs})
    return rows


def show(rows: Sequence[dict], title: str) -> None:
    """Print the table."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify='left')
    for head in ('K', 'part', 'parameters', 'MACs', 'layers', 'products'):
        table.add_column(head, justify='left' if head in ('K', 'part') else 'right')
    for row in rows:
        keep = '–' if row['keep'] is None else str(row['keep'])
        numbers = [f'{row[name] / 1e9:.3f} G' for name in ('macs', 'layers')]
        table.add_row(
            keep,
            row['part'],
            f'{row["parameters"] / 1e6:.2f} M',
            *numbers,
            f'{row["products"] / 1e9:.3f} G',
        )
    console = Console(width=None if Console().is_terminal else 100)
    console.print(table)
    console.print(
        'layers: convolutions and linear layers; products: attention, matching, merging'
    )


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    warnings.filterwarnings('ignore', message='pkg_resources')
    try:
        rows = report(args)
    except (FileNotFoundError, ValueError) as error:
        sys.exit(f'error: {error}')
    show(rows, args.config)
    if args.json is not None:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(rows, indent=2) + '\n', encoding='utf-8')


if __name__ == '__main__':
    main()
