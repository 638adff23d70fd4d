"""Attention to tokens of several sizes: by a mask, by a channel, and to equal ones.

A token that stands for s positions counts s times: log s is added to its scores. torch
takes it as a mask, for which not every kernel is made, or, exactly as well, as one more
channel of query and key: (q, √d) · (k, log s) / √d = q · k / √d + log s. The package
uses the mask.

Examples:
    python tools/benchmarks/size_attention.py
    python tools/benchmarks/size_attention.py --batch-size 64 --dtype bfloat16
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial
from statistics import median

import torch
from common import add_arguments, interleaved, median_ratio, run_main, start
from reporting import Report
from torch import Tensor
from torch.nn import functional as F

import mergevq_mm  # noqa: F401  (before torchvision and mmpretrain)
from mergevq_mm.utils.operator_count import count_operators

# Tokens (the class token with them) x heads: R and G, at the start and towards the end.
SHAPES = {
    f'{length}x{heads}': (length, heads)
    for length, heads in [(257, 12), (49, 12), (1025, 8), (289, 8)]
}


def equal_sizes(query: Tensor, key: Tensor, value: Tensor, size: Tensor) -> Tensor:
    """Attention that ignores the sizes: B×h×T×d thrice, B×T to B×h×T×d."""
    return F.scaled_dot_product_attention(query, key, value)


def by_mask(query: Tensor, key: Tensor, value: Tensor, size: Tensor) -> Tensor:
    """The logarithm of the sizes as a mask."""
    bias = size.log().to(query.dtype)[:, None, None, :]
    return F.scaled_dot_product_attention(query, key, value, attn_mask=bias)


def by_channel(query: Tensor, key: Tensor, value: Tensor, size: Tensor) -> Tensor:
    """The logarithm as a channel, the width filled up to a multiple of 8 by zeros."""
    batch, heads, length, width = query.shape
    more = 8 - width % 8
    shape = (batch, heads, length, 1)
    root = query.new_full((1, 1, 1, 1), width**0.5).expand(shape)
    logarithm = size.log().to(key.dtype)[:, None, :, None].expand(shape)
    query = F.pad(torch.cat([query, root], dim=-1), (0, more - 1))
    key = F.pad(torch.cat([key, logarithm], dim=-1), (0, more - 1))
    value = F.pad(value, (0, more))
    scale = width**-0.5
    out = F.scaled_dot_product_attention(query, key, value, scale=scale)
    return out[..., :width]


WAYS = {'none': equal_sizes, 'mask': by_mask, 'channel': by_channel}


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Benchmark of attention with sizes')
    parser.add_argument(
        '--shapes',
        nargs='+',
        choices=list(SHAPES),
        default=list(SHAPES),
        help='tokens x heads (default: all)',
    )
    parser.add_argument('--batch-size', type=int, default=1, help='default: 1')
    parser.add_argument(
        '--dtype', choices=['float32', 'bfloat16'], default='float32', help='float32'
    )
    add_arguments(parser, repeats=15)
    return parser.parse_args(argv)


@torch.no_grad()
def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    device = start(args)
    report = Report(
        f'Attention with sizes, {args.dtype}, batches of {args.batch_size}, width 64',
        {
            'shape': 'tokens x heads',
            'way': 'sizes',
            'time': 'time (ms)|.3f',
            'ratio': 'over none|.2f',
            'operators': 'operators|d',
        },
        args,
        device,
    )
    for name in args.shapes:
        length, heads = SHAPES[name]
        shape = (args.batch_size, length, 3, heads, 64)
        qkv = torch.randn(shape, device=device, dtype=getattr(torch, args.dtype))
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        size = torch.randint(1, 9, (args.batch_size, length), device=device).float()
        work = {
            way: partial(attend, query, key, value, size)
            for way, attend in WAYS.items()
        }
        seconds = interleaved(work, args.repeats, device, warmup=2)
        for way, run in work.items():
            with count_operators() as operators:
                run()
            report.add(
                shape=name,
                way=way,
                time=1e3 * median(seconds[way]),
                ratio=median_ratio(seconds[way], seconds['none']),
                operators=operators.total(),
            )
    report.show()
    return 0


if __name__ == '__main__':
    run_main(main)
