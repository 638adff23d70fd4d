"""Encoder with and without merging, against the bound that the operations set.

The bound is the ratio of multiply-accumulates; `reached` is the measured ratio over it.
`matching` runs what merging adds, and nothing else, on the same shapes: finding pairs,
merging tokens, following the source map, and numbering the groups at the end.

Examples:
    python tools/benchmarks/encoder.py
    python tools/benchmarks/encoder.py --arch r-base --keep 36 64 --batch-size 32 --amp
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from statistics import median

import torch
from common import add_arguments, interleaved, median_ratio, run_main, start
from reporting import Report
from torch import Tensor

import mergevq_mm  # noqa: F401  (before torchvision and mmpretrain)
from mergevq_mm.models.backbones.mergevq_encoder import MergeVQEncoder
from mergevq_mm.models.utils.group_map import raster_order, recover_tokens
from mergevq_mm.models.utils.merge_schedule import merge_schedule
from mergevq_mm.models.utils.token_merging import (
    Matching,
    bipartite_matching,
    follow_merges,
    merge_tokens,
)
from mergevq_mm.utils.flops import count_macs

# K of the paper as a share of L: 256 of 1024, 144 of 256, and 36 of 256, which is L/7.
SHARES = {'g-d64': 1 / 4, 'g+r-d64': 9 / 16, 'r-base': 9 / 64}


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Benchmark of the encoder with merging on and off'
    )
    parser.add_argument(
        '--arch',
        nargs='+',
        choices=sorted(MergeVQEncoder.arch_zoo),
        default=list(SHARES),
        metavar='NAME',
        help=f'presets of MergeVQEncoder (default: {" ".join(SHARES)})',
    )
    parser.add_argument('--img-size', type=int, default=256, help='default: 256')
    parser.add_argument('--batch-size', type=int, default=1, help='default: 1')
    parser.add_argument(
        '--keep',
        type=int,
        nargs='+',
        help="numbers of tokens, K (default: the paper's share of L for each model)",
    )
    parser.add_argument('--schedule', default='linear', help='default: linear')
    parser.add_argument(
        '--train', action='store_true', help='forward and backward, not forward alone'
    )
    parser.add_argument('--amp', action='store_true', help='bfloat16 autocast')
    parser.add_argument(
        '--blocks-only', action='store_true', help='the transformer, no whole encoders'
    )
    add_arguments(parser, repeats=3)
    return parser.parse_args(argv)


class Case:
    """One encoder at one K: the pieces of work, and their operations.

    Args:
        encoder (MergeVQEncoder): On its device.
        image (Tensor): B×3×H×W.
        keep (int): K.
    """

    def __init__(self, encoder: MergeVQEncoder, image: Tensor, keep: int) -> None:
        self.encoder = encoder
        self.image = image
        self.keep = keep
        self.grid = encoder.grid_of(*image.shape[-2:])
        self.length = self.grid[0] * self.grid[1]
        layers = encoder.num_layers
        self.removed = merge_schedule(self.length, keep, layers, encoder.schedule)
        self.tokens = torch.randn(
            len(image), 1 + self.length, encoder.embed_dims, device=image.device
        )

    def whole(self, keep: int) -> Tensor:
        """Image to K tokens."""
        return self.encoder(self.image, keep, mode='encode').tokens

    def transformer(self, removed: Sequence[int]) -> Tensor:
        """The blocks alone, on tokens of the same shape."""
        x, size, matches = self.tokens, None, ()
        for layer, r in zip(self.encoder.layers, removed, strict=True):
            x, size, matches = layer(x, size, matches, r)
        return self.in_order(x, matches) if matches else x[:, 1:]

    @torch.no_grad()
    def matching(self) -> Tensor:
        """All that merging adds to the blocks, without the blocks."""
        x, size, matches = self.tokens, None, []
        width = x.shape[-1] // self.encoder.layers[0].attn.num_heads
        for r in self.removed:
            if r:
                matches.append(bipartite_matching(x[..., :width], r))
                x, size = merge_tokens(x, size, matches[-1])
        return self.in_order(x, matches)

    def in_order(self, x: Tensor, matches: Sequence[Matching]) -> Tensor:
        """Tokens without the class token, by first raster position, as in encode."""
        group = follow_merges(x, matches, self.length)
        return recover_tokens(x[:, 1:], raster_order(group - 1, self.keep)[1])

    def work(self, whole: bool) -> dict[str, Callable[[], Tensor]]:
        """What is measured: without merging, with it, and what merging adds."""
        run = self.whole if whole else self.transformer
        on = self.keep if whole else self.removed
        off = self.length if whole else [0] * len(self.removed)
        return {
            'plain': lambda: run(off),
            'merged': lambda: run(on),
            'matching': self.matching,
        }


def operations(case: Case, name: str, whole: bool) -> dict[str, int]:
    """Multiply-accumulates of the same work for one image."""
    size, schedule = case.image.shape[-2:], case.encoder.schedule
    with torch.device('meta'):
        encoder = MergeVQEncoder(name, tuple(size), schedule=schedule)
        one = Case(encoder.requires_grad_(False), torch.zeros(1, 3, *size), case.keep)
        return {
            key: sum(count_macs(encoder, run)) for key, run in one.work(whole).items()
        }


def runner(
    work: Callable[[], Tensor], args: argparse.Namespace, device: torch.device
) -> Callable[[], None]:
    """Work under autocast where asked for, with its backward pass or no graph."""

    def run() -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=args.amp):
            out = work()
        if out.requires_grad:
            out.float().square().mean().backward()

    return run if args.train else torch.no_grad()(run)


def compare(
    case: Case, name: str, whole: bool, args: argparse.Namespace, report: Report
) -> None:
    """Measure one case and add its row."""
    device = case.image.device
    work = {key: runner(run, args, device) for key, run in case.work(whole).items()}
    seconds = interleaved(work, args.repeats, device)
    macs = operations(case, name, whole)
    ratio = median_ratio(seconds['plain'], seconds['merged'])
    # Matching and merging are the price, not the work: the bound leaves them out.
    bound = macs['plain'] / (macs['merged'] - macs['matching'])
    report.add(
        arch=name,
        part='whole' if whole else 'blocks',
        keep=f'{case.keep}/{case.length}',
        **{key: 1e3 * median(value) for key, value in seconds.items()},
        ratio=ratio,
        bound=bound,
        reached=ratio / bound,
        share=median_ratio(seconds['matching'], seconds['merged']),
        macs=macs['merged'] / 1e9,
        macs_plain=macs['plain'] / 1e9,
        macs_share=macs['matching'] / macs['merged'],
        removed=case.removed,
    )


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    device = start(args)
    passes = 'forward and backward' if args.train else 'forward'
    report = Report(
        f'MergeVQEncoder, {passes}, {args.img_size} px, batches of {args.batch_size}'
        + (', bfloat16' if args.amp else ''),
        {
            'arch': 'encoder',
            'part': 'part',
            'keep': 'K/L',
            'plain': 'plain (ms)|.1f',
            'merged': 'merged (ms)|.1f',
            'ratio': 'ratio|.2f',
            'bound': 'bound|.2f',
            'reached': 'reached|.0%',
            'matching': 'matching (ms)|.1f',
            'share': 'share|.1%',
            'macs': 'GMAC|.2f',
        },
        args,
        device,
    )
    for name in args.arch:
        encoder = MergeVQEncoder(name, args.img_size, schedule=args.schedule)
        encoder = encoder.to(device).train(args.train)
        image = torch.randn(
            args.batch_size, 3, args.img_size, args.img_size, device=device
        )
        length = encoder.grid[0] * encoder.grid[1]
        share = SHARES.get(name, 1 / 4)
        for keep in args.keep or [max(round(share * length), 1)]:
            case = Case(encoder, image, keep)
            for whole in (False,) if args.blocks_only else (False, True):
                compare(case, name, whole, args, report)
        del encoder
    report.note(
        'blocks: the transformer alone. bound: multiply-accumulates without merging '
        'over those with it. share: what matching takes of the time with merging. '
        'GMAC: of one image, with merging. More than 100 % is reached where what '
        'merging saves runs slower, operation for operation, than the rest.'
    )
    report.show()
    return 0


if __name__ == '__main__':
    run_main(main)
