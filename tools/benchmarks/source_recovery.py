"""How well images come back from their codes alone, with the predicted source map.

Encodes the held-out images at each K and decodes their codes three times: with the true
map, with the likeliest group of each place by itself, and with the best map that can
exist. A neck that can be told of the class or of the first places is measured with
them, too. Says how many places of the map are right, the PSNR, and with --judge how
many images a classifier still names rightly.

With --epochs the neck is trained first, on the codes of the frozen tokenizer: a new one
(of the config's settings), whatever the checkpoint has. --out writes the checkpoint
with it. So an older checkpoint gets a neck that knows the order of its codes.

Examples (CONFIG=configs/quickstart/mergevq_g+r_mnist5k.py):
    python tools/benchmarks/source_recovery.py $CONFIG CHECKPOINT --keep 16 36 64
    python tools/benchmarks/source_recovery.py $CONFIG CHECKPOINT --epochs 20 --out FILE
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from common import add_arguments, positive, run_main, start
from mmengine.config import DictAction
from neck_training import READS, Loader, encode, read_parts, train, write
from reporting import Report
from torch import Tensor

import mergevq_mm  # noqa: F401  (before torchvision and mmpretrain)
from mergevq_mm.models.utils.group_map import (
    first_occurrence,
    recover_tokens,
    source_accuracy,
)
from mergevq_mm.models.utils.possible_maps import best_possible_map

if TYPE_CHECKING:
    from mergevq_mm.models.generators.tokenizer import TokenizerParts


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config', help='config file of a MergeVQ, stage 1')
    parser.add_argument('checkpoint', help='path or URL of a checkpoint of it')
    parser.add_argument(
        '--keep',
        nargs='+',
        type=int,
        metavar='K',
        help="default: the config's test_cfg",
    )
    parser.add_argument(
        '--judge',
        nargs=2,
        metavar=('CONFIG', 'CHECKPOINT'),
        help='a classifier of mmpretrain',
    )
    parser.add_argument(
        '--judge-size',
        type=positive,
        metavar='PIXELS',
        help='to resize its images to. Default: as they are',
    )
    parser.add_argument(
        '--epochs', type=float, default=0, help='to train a new neck. Default: 0'
    )
    parser.add_argument(
        '--lr', type=float, default=2e-3, help='its peak. Default: 2e-3'
    )
    parser.add_argument(
        '--batch-size', type=positive, default=64, help='images a batch. Default: 64'
    )
    parser.add_argument('--out', type=Path, help='checkpoint to write, with --epochs')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        help='settings of the config to override, as key=value',
    )
    add_arguments(parser)
    args = parser.parse_args(argv)
    if not 0 <= args.epochs < float('inf'):
        parser.error(f'--epochs {args.epochs:g} is no length: give at least 0')
    if args.out is not None and not args.epochs:
        parser.error('--out writes a neck that was trained here: give --epochs')
    if args.out is not None and args.out.is_dir():
        parser.error(f'--out "{args.out}" is a folder: give the path of a file')
    return args


# --------------------------------------------------------------------- measuring


def predictions(
    parts: TokenizerParts, codes: Tensor, group: Tensor, labels: Tensor
) -> dict[str, Tensor]:
    """Maps by how they are found, B×L each.

    Args:
        parts (TokenizerParts): Of the tokenizer.
        codes (Tensor): B×K×d.
        group (Tensor): The true map, B×L.
        labels (Tensor): Classes, B.

    Returns:
        dict[str, Tensor]: By the names of the table's rows.
    """
    neck, grid = parts.neck, parts.backbone.grid
    first = first_occurrence(group, codes.shape[1])
    plain = neck.scores(codes, grid)
    found = {
        'true': group,
        'likeliest': plain.argmax(dim=2),
        'possible': best_possible_map(plain),
        'possible, first places': best_possible_map(
            neck.scores(codes, grid, first=first), first
        ),
    }
    if neck.num_classes:
        scores = neck.scores(codes, grid, labels)
        found['possible, class'] = best_possible_map(scores)
        scores = neck.scores(codes, grid, labels, first)
        found['possible, both'] = best_possible_map(scores, first)
    return found


@torch.no_grad()
def measure(
    parts: TokenizerParts,
    load: Loader,
    keep: int,
    judge: Callable[[Tensor], Tensor] | None,
) -> dict[str, dict[str, float]]:
    """Means over the held-out images at one K.

    Args:
        parts (TokenizerParts): Of the tokenizer.
        load (Loader): Of images.
        keep (int): K.
        judge (Callable, optional): From images in [-1, 1] to classes.

    Returns:
        dict[str, dict[str, float]]: By map: ``right`` and ``right_codes`` (%),
        ``psnr`` (dB), and with a judge ``named`` (%) and its mean over the classes,
        ``named_classes``, also of the image itself.
    """
    from mergevq_mm.evaluation.functional.image_quality import psnr

    sums: dict[str, dict[str, float]] = {}
    named: dict[str, list[Tensor]] = {}
    labels: list[Tensor] = []
    number = 0
    for images in load('val'):
        codes, index, group = encode(parts, images.pixels, keep)
        number += len(codes)
        original = images.pixels / 2 + 0.5
        labels.append(images.labels)
        if judge is not None:
            sums.setdefault('the image itself', {})
            hits = judge(images.pixels) == images.labels
            named.setdefault('the image itself', []).append(hits)
        for name, found in predictions(parts, codes, group, images.labels).items():
            made = parts.decoder(recover_tokens(codes, found), parts.backbone.grid)
            made = made.clamp(-1, 1)
            values = {
                'right': 100 * source_accuracy(found, group),
                'right_codes': 100 * source_accuracy(found, group, index),
                'psnr': psnr(made / 2 + 0.5, original),
            }
            if judge is not None:
                named.setdefault(name, []).append(judge(made) == images.labels)
            row = sums.setdefault(name, dict.fromkeys(values, 0.0))
            for key, value in values.items():
                row[key] += float(value.double().sum())
    found = {
        name: {key: value / number for key, value in row.items()}
        for name, row in sums.items()
    }
    for name, hits in named.items():
        found[name] |= named_rightly(torch.cat(hits), torch.cat(labels))
    return found


def named_rightly(hits: Tensor, labels: Tensor) -> dict[str, float]:
    """Per cent of the images whose class is seen, and the mean over the classes."""
    right = 100 * hits.double()
    classes = [right[labels == label].mean() for label in labels.unique()]
    return {
        'named': float(right.mean()),
        'named_classes': float(torch.stack(classes).mean()),
    }


def read_judge(
    config: str, checkpoint: str, size: int | None, device: torch.device
) -> Callable[[Tensor], Tensor]:
    """A trained classifier, as a function from images in [-1, 1] to classes."""
    from mergevq_mm.models.utils.frozen import FrozenModel
    from mergevq_mm.registry import MODELS
    from mergevq_mm.utils.checkpoint import load_pretrained
    from mergevq_mm.utils.config import load_config

    cfg = load_config(config)
    classifier = MODELS.build(cfg.model)
    load_pretrained(classifier, checkpoint, min_matched=1.0)
    given = cfg.data_preprocessor
    model = FrozenModel(classifier, given.mean, given.std, size).to(device)
    grey = len(given.mean) == 1  # it was trained on grey images

    def judge(images: Tensor) -> Tensor:
        images = images.mean(dim=1, keepdim=True) if grey else images
        return model.network(model.normalize(images)).argmax(dim=1)

    return judge


def main(argv: Sequence[str] | None = None) -> int:
    from mmengine.registry import init_default_scope

    from mergevq_mm.models.selfsup.mergevq_checks import read_test_keep
    from mergevq_mm.utils import config as config_utils
    from mergevq_mm.utils.config_options import merge_options

    args = parse_args(argv)
    device = start(args)
    cfg = config_utils.load_config(args.config)
    merge_options(cfg, args.cfg_options, READS)
    init_default_scope(cfg.get('default_scope') or 'mmpretrain')
    parts = read_parts(cfg, args).to(device)
    grid = parts.backbone.grid
    given = args.keep or cfg.model.get('test_cfg', {}).get('keep', grid[0] * grid[1])
    keeps = read_test_keep(given, grid[0] * grid[1])
    judge = args.judge and read_judge(*args.judge, args.judge_size, device)
    load = Loader(cfg, args, device)
    if args.epochs:
        train(parts, cfg, load, args)
        if args.out is not None:
            write(parts, args)
    report = Report(
        f'Source recovery, L = {grid[0] * grid[1]}',
        {
            'map': 'map',
            'keep': 'K|d',
            'right': 'places right (%)|.1f',
            'right_codes': 'up to equal codes (%)|.1f',
            'psnr': 'PSNR (dB)|.2f',
            'named': 'named rightly (%)|.1f',
            'named_classes': 'mean of the classes (%)|.1f',
        },
        args,
        device,
    )
    for keep in keeps:
        for name, values in measure(parts, load, keep, judge).items():
            report.add(map=name, keep=keep, **values)
    report.show()
    return 0


if __name__ == '__main__':
    run_main(main)
