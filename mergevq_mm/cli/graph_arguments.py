"""The flags of exported graphs; plain argparse."""

from __future__ import annotations

import argparse

from .keep_arguments import keep_of

PRECISIONS = ('fp32', 'fp16', 'bf16', 'int8')


def add_graphs(parser: argparse.ArgumentParser) -> None:
    """Add what graphs can be made for.

    Args:
        parser (ArgumentParser): Of the command.
    """
    group = parser.add_argument_group('graphs')
    group.add_argument(
        '--keep',
        type=keep_of,
        nargs='+',
        metavar='K',
        help='tokens, or a share such as 0.25, or all; a graph for each, and of a '
        "generator one. Default: the model's, and of a tokenizer all",
    )
    group.add_argument(
        '--image-size',
        type=int,
        nargs=2,
        metavar=('ROWS', 'COLUMNS'),
        help="of a tokenizer, in pixels. Default: the model's",
    )
    group.add_argument(
        '--precision',
        choices=PRECISIONS,
        default='fp32',
        help='of the weights; the graph computes in float32. Default: fp32',
    )
