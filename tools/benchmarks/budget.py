"""A number of tokens for each image: quality against the mean, beside one K for all.

Encodes the held-out images at each K that a budget chooses from and decodes them. For
each mean: one K for all images; of each image the best K up to it; the mean spent by
one number of each image, how crowded it is; on the PSNR; on the squared error; and by
the similarity of what merges. Then thresholds of PSNR and similarity that need as many
tokens. Last, how long encoding takes. Writes a table, and with --png simple and crowded
images with the K that they get where the mean is spent on the squared error.

A mean holds over each batch, as with `mergevq encode --mean-tokens`.

Examples (CONFIG=configs/quickstart/mergevq_g+r_mnist5k.py):
    python tools/benchmarks/budget.py $CONFIG CHECKPOINT --mean 8 12 16 24
    python tools/benchmarks/budget.py $CONFIG CHECKPOINT --mean 12 --png budget.png
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from common import add_arguments, interleaved, positive, run_main, start
from mmengine.config import DictAction
from neck_training import READS, Loader
from reporting import Report
from torch import Tensor

import mergevq_mm  # noqa: F401  (before torchvision and mmpretrain)
from mergevq_mm.models.utils.budget import SIGNALS, Budget, fewest_that_reach
from mergevq_mm.models.utils.budget_signals import (
    decode_merged,
    encode_ragged,
    psnr_table,
    similarity_table,
)

if TYPE_CHECKING:
    from mergevq_mm.models.generators.tokenizer import FrozenTokenizer
    from mergevq_mm.visualization import BudgetImage


class Tables(NamedTuple):
    """What each image would be worth at each K, of one batch.

    Attributes:
        pixels (Tensor): Images, B×3×H×W in [-1, 1].
        psnr (np.ndarray): B×C, dB.
        similarity (np.ndarray): B×C.
    """

    pixels: Tensor
    psnr: np.ndarray
    similarity: np.ndarray


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config', help='config file of a MergeVQ, stage 1')
    parser.add_argument('checkpoint', help='path or URL of a checkpoint of it')
    parser.add_argument(
        '--mean', nargs='+', type=int, metavar='K', help='default: L/8, 3/16 L, L/4'
    )
    parser.add_argument(
        '--keeps', nargs='+', type=int, metavar='K', help="default: a budget's own"
    )
    parser.add_argument(
        '--batch-size', type=positive, default=64, help='images a batch. Default: 64'
    )
    parser.add_argument(
        '--number', type=positive, default=1000, help='images. Default: 1000'
    )
    parser.add_argument('--png', type=Path, help='also draw images of the first mean')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        help='settings of the config to override, as key=value',
    )
    add_arguments(parser, repeats=5)
    return parser.parse_args(argv)


@torch.inference_mode()
def measure(
    tokenizer: FrozenTokenizer, batches: Sequence[Tensor], keeps: Sequence[int]
) -> Iterator[Tables]:
    """The tables of batches of images.

    Args:
        tokenizer (FrozenTokenizer): On the device.
        batches (Sequence[Tensor]): Images, B×3×H×W in [-1, 1].
        keeps (Sequence[int]): C numbers of tokens.

    Yields:
        Tables: Of a batch.
    """
    parts = tokenizer.network
    for pixels in batches:
        embedded = parts.backbone.embed(pixels)
        yield Tables(
            pixels,
            psnr_table(parts, pixels, embedded, keeps),
            similarity_table(parts, embedded, keeps),
        )


def read_images(load: Loader, args: argparse.Namespace) -> tuple[Tensor, ...]:
    """Batches of held-out images in random order, as a folder is sorted by class."""
    pixels = torch.cat([images.pixels for images in load('val')])
    order = torch.randperm(len(pixels))[: args.number]
    return pixels[order].split(args.batch_size)


def numbers(
    batches: Sequence[Tables], keeps: Sequence[int], chosen: Sequence[Sequence[int]]
) -> dict[str, float]:
    """What images are worth with their K.

    Args:
        batches (Sequence[Tables]): All images.
        keeps (Sequence[int]): Columns of the tables.
        chosen (Sequence[Sequence[int]]): For each batch K of each image.

    Returns:
        dict[str, float]: Mean ``tokens`` and ``psnr``, ``overall``, the PSNR of the
        mean squared error, ``worst``, below which a tenth of the images lie, and the
        smallest and largest K, ``least`` and ``most``.
    """
    tokens = np.concatenate([np.asarray(own) for own in chosen])
    column = {keep: place for place, keep in enumerate(keeps)}
    psnr = np.concatenate(
        [
            tables.psnr[range(len(own)), [column[keep] for keep in own]]
            for tables, own in zip(batches, chosen, strict=True)
        ]
    )
    errors = 10 ** (-psnr / 10)
    return {
        'tokens': float(tokens.mean()),
        'psnr': float(psnr.mean()),
        'overall': -10 * math.log10(errors.mean()),
        'worst': float(np.quantile(psnr, 0.1)),
        'least': int(tokens.min()),
        'most': int(tokens.max()),
    }


def choose(
    budget: Budget, batches: Sequence[Tables], keeps: Sequence[int], length: int
) -> list[list[int]]:
    """K of each image of each batch within a budget."""
    return [
        budget.choose(
            tables.similarity if budget.by_similarity else tables.psnr, keeps, length
        )
        for tables in batches
    ]


def best_up_to(
    keep: int, batches: Sequence[Tables], keeps: Sequence[int]
) -> list[list[int]]:
    """K of the highest PSNR of each image among those up to one: nothing is shared."""
    number = keeps.index(keep) + 1
    return [
        [keeps[place] for place in tables.psnr[:, :number].argmax(axis=1)]
        for tables in batches
    ]


def crowdedness(batches: Sequence[Tables]) -> list[Tables]:
    """Tables whose rows differ by one number: how crowded an image is, and no more.

    The best approximation of rank 1 of what the rows have beyond their mean.
    """
    table = np.concatenate([tables.psnr for tables in batches])
    mean = table.mean(axis=0)
    image, size, keep = np.linalg.svd(table - mean, full_matrices=False)
    smooth = mean + size[0] * np.outer(image[:, 0], keep[0])
    ends = np.cumsum([len(tables.psnr) for tables in batches])[:-1]
    return [
        tables._replace(psnr=part)
        for tables, part in zip(batches, np.split(smooth, ends), strict=True)
    ]


def threshold(
    signal: str, mean: float, batches: Sequence[Tables], keeps: Sequence[int]
) -> float:
    """The highest quality that images can all be asked for with so many tokens.

    Args:
        signal (str): 'psnr' or 'similarity'.
        mean (float): Tokens of an image on average, over all of them.
        batches (Sequence[Tables]): All images.
        keeps (Sequence[int]): Columns of the tables.

    Returns:
        float: By bisection; a higher one needs more tokens.
    """
    table = np.concatenate([getattr(tables, signal) for tables in batches])
    tokens = np.asarray(keeps)
    low, high = float(table.min()), float(table.max())
    for _ in range(40):
        middle = (low + high) / 2
        if tokens[fewest_that_reach(table, middle)].mean() <= mean:
            low = middle
        else:
            high = middle
    return low


def budgets(
    mean: int, batches: Sequence[Tables], keeps: Sequence[int]
) -> dict[str, Budget]:
    """Budgets that spend a mean, by what they are called in the table."""
    found = {
        f'mean, {signal}': Budget(mean=mean, by=signal, keeps=keeps)
        for signal in SIGNALS
    }
    for signal in ('psnr', 'similarity'):
        aim = threshold(signal, mean, batches, keeps)
        found[f'{signal} {aim:.3f}'] = Budget(**{signal: aim}, keeps=keeps)
    return found


def compare(
    tokenizer: FrozenTokenizer,
    images: Sequence[Tensor],
    means: Sequence[int],
    args: argparse.Namespace,
) -> Report:
    """The table: for each mean one K for all, then all budgets.

    Args:
        tokenizer (FrozenTokenizer): On the device.
        images (Sequence[Tensor]): Batches, B×3×H×W in [-1, 1].
        means (Sequence[int]): Tokens an image.
        args (Namespace): The command line.

    Returns:
        Report: Not complete yet.
    """
    length = tokenizer.length
    report = Report(
        f'A K for each image, L = {length}',
        {
            'way': 'tokens by',
            'tokens': 'mean K|.2f',
            'psnr': 'PSNR (dB)|.2f',
            'overall': 'PSNR of the mean error|.2f',
            'worst': 'a tenth is below|.2f',
            'least': 'K from|d',
            'most': 'to|d',
        },
        args,
        images[0].device,
    )

    def one_keep(tables: Sequence[Tables], columns: Sequence[int], keep: int) -> dict:
        same = [[keep] * len(pixels) for pixels in images]
        return numbers(tables, columns, same)

    for mean in means:
        keeps = tokenizer.candidates(Budget(mean=mean, keeps=args.keeps))
        tables = list(measure(tokenizer, images, keeps))
        if mean in keeps:
            report.add(way='one K', **one_keep(tables, keeps, mean))
            chosen = best_up_to(mean, tables, keeps)
            report.add(way='best up to it', **numbers(tables, keeps, chosen))
        spent = Budget(mean=mean, keeps=keeps)
        chosen = choose(spent, crowdedness(tables), keeps, length)
        report.add(way='mean, crowdedness', **numbers(tables, keeps, chosen))
        for way, budget in budgets(mean, tables, keeps).items():
            chosen = choose(budget, tables, keeps, length)
            report.add(way=way, **numbers(tables, keeps, chosen))
    tables = list(measure(tokenizer, images, [length]))
    report.add(way='all', **one_keep(tables, [length], length))
    return report


def seconds(
    tokenizer: FrozenTokenizer, pixels: Tensor, mean: int, args: argparse.Namespace
) -> dict[str, float]:
    """Milliseconds an image to encode a batch, all ways in turn."""
    asked = {
        'one K': mean,
        **{
            signal: Budget(mean=mean, by=signal, keeps=args.keeps) for signal in SIGNALS
        },
    }
    work = {
        name: torch.inference_mode()(lambda keep=keep: tokenizer.encode(pixels, keep))
        for name, keep in asked.items()
    }
    times = interleaved(work, args.repeats, pixels.device)
    return {name: 1000 * median(one) / len(pixels) for name, one in times.items()}


@torch.inference_mode()
def pictures(
    tokenizer: FrozenTokenizer, pixels: Tensor, budget: Budget, fixed: int
) -> list[BudgetImage]:
    """Images of a batch with the K that they get, and with one K.

    Args:
        tokenizer (FrozenTokenizer): On the device.
        pixels (Tensor): B×3×H×W in [-1, 1].
        budget (Budget): What to spend on them.
        fixed (int): The one K.

    Returns:
        list[BudgetImage]: B.
    """
    from mergevq_mm.evaluation.functional.image_quality import psnr
    from mergevq_mm.models.utils.pixel_range import to_unit_range
    from mergevq_mm.visualization import BudgetImage, to_uint8

    original, decode = to_unit_range(pixels), partial(decode_merged, tokenizer.network)
    merged, one = (
        encode_ragged(tokenizer.network, pixels, keep) for keep in (budget, fixed)
    )
    made, same = (to_unit_range(m.map(decode).join()) for m in (merged, one))
    own, same = psnr(made, original), psnr(same, original)
    return [
        BudgetImage(
            to_uint8(original[i]),
            to_uint8(made[i]),
            merged[i].group[0].cpu().numpy(),
            float(own[i]),
            float(same[i]),
        )
        for i in range(len(pixels))
    ]


def main(argv: Sequence[str] | None = None) -> int:
    from mmengine.registry import init_default_scope

    from mergevq_mm.models.generators.tokenizer import FrozenTokenizer
    from mergevq_mm.utils import config as config_utils
    from mergevq_mm.utils.config_options import merge_options
    from mergevq_mm.visualization import budget_sheet, save_png

    args = parse_args(argv)
    device = start(args)
    cfg = config_utils.load_config(args.config)
    merge_options(cfg, args.cfg_options, READS)
    init_default_scope(cfg.get('default_scope') or 'mmpretrain')
    tokenizer = FrozenTokenizer(dict(cfg.model), args.checkpoint).to(device)
    length = tokenizer.length
    means = args.mean or [length // 8, 3 * length // 16, length // 4]
    images = read_images(Loader(cfg, args, device), args)
    report = compare(tokenizer, images, means, args)
    times = seconds(tokenizer, images[0], means[0], args)
    said = ', '.join(f'{name} {time:.2f}' for name, time in times.items())
    report.note(f'ms an image to encode at a mean of {means[0]}: {said}')
    report.show(times=times)
    if args.png is not None:
        budget = Budget(mean=means[0], by='error', keeps=args.keeps)
        shown = pictures(tokenizer, images[0], budget, means[0])
        save_png(args.png, budget_sheet(shown, tokenizer.grid, means[0]))
        print(f'drawn to {args.png}')
    return 0


if __name__ == '__main__':
    run_main(main)
