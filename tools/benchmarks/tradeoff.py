"""Throughput against accuracy: a probe of a trained tokenizer at a list of K.

For each K the encoder merges down to K tokens; logistic regression on the features says
how many held-out images are named rightly, and timing in turns says how many images a
second pass. `frozen probe` is fitted once, to the features without merging, and used at
every K: merging as a switch. `own probe` is fitted to the features at that K. Writes a
table, and a picture of top-1 against images a second and multiply-accumulates.

Examples (CONFIG=configs/mergevq_r.py):
    python tools/benchmarks/tradeoff.py $CONFIG CHECKPOINT --keep 144 64 36
    python tools/benchmarks/tradeoff.py $CONFIG CHECKPOINT --png tradeoff.png
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from common import interleaved, run_main
from reporting import Report

import mergevq_mm  # noqa: F401  (before torchvision and mmpretrain)

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from extract_features import (
    FEATURES,
    add_arguments,
    check_labels,
    device_of,
    extract,
    loader_of,
    read_config,
)

if TYPE_CHECKING:
    from mmengine.config import Config

    from mergevq_mm.models.backbones import MergeVQEncoder

PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)


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
        help='numbers of tokens beside L (default: 1/2, 1/4 and 1/7 of L)',
    )
    parser.add_argument(
        '--features',
        nargs='+',
        choices=FEATURES,
        default=['cls', 'avg'],
        help='what the probe sees, side by side (default: cls avg)',
    )
    parser.add_argument(
        '--time-batch', type=int, default=32, help='images a timed batch. Default: 32'
    )
    parser.add_argument(
        '--repeats', type=int, default=5, help='turns of the timing. Default: 5'
    )
    parser.add_argument('--png', type=Path, help='also draw the trade-off here')
    parser.add_argument('--json', type=Path, help='also write the numbers to this file')
    add_arguments(parser)
    return parser.parse_args(argv)


def accuracies(
    cfg: Config, keeps: Sequence[int], length: int, args: argparse.Namespace
) -> dict[int, dict[str, float]]:
    """Top-1 of both probes at each K.

    Args:
        cfg (Config): A stage-1 config.
        keeps (Sequence[int]): Numbers of tokens.
        length (int): L.
        args (Namespace): The command line.

    Returns:
        dict[int, dict[str, float]]: K to ``frozen`` and ``own``, in per cent.
    """
    from mergevq_mm.evaluation.probe import linear_probe

    def pair(rows: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        return np.concatenate([rows[n] for n in args.features], axis=1), rows['label']

    plain = extract(cfg, 'train', args.features, length, args)
    found = {}
    for keep in keeps:
        train = plain
        if keep != length:
            train = extract(cfg, 'train', args.features, keep, args)
        test = extract(cfg, 'val', args.features, keep, args)
        check_labels(plain, test)
        found[keep] = {
            'frozen': 100 * linear_probe(*pair(plain), *pair(test), PENALTIES),
            'own': 100 * linear_probe(*pair(train), *pair(test), PENALTIES),
        }
    return found


def speeds(
    encoder: MergeVQEncoder,
    images: torch.Tensor,
    keeps: Sequence[int],
    repeats: int,
) -> dict[int, float]:
    """Images a second at each K; all K take turns.

    Args:
        encoder (MergeVQEncoder): In evaluation mode, on the device of the images.
        images (Tensor): B×3×H×W.
        keeps (Sequence[int]): Numbers of tokens.
        repeats (int): Turns; the median counts.

    Returns:
        dict[int, float]: K to images a second.
    """
    work = {
        str(keep): torch.inference_mode()(
            lambda keep=keep: encoder(images, keep, mode='encode')
        )
        for keep in keeps
    }
    seconds = interleaved(work, repeats, images.device)
    return {keep: len(images) / median(seconds[str(keep)]) for keep in keeps}


def operations(backbone: Mapping[str, Any], size: tuple[int, int], keep: int) -> float:
    """Millions of multiply-accumulates of the encoder for one image at one K."""
    from mergevq_mm.utils.building import build_on_meta
    from mergevq_mm.utils.flops import count_macs

    encoder = build_on_meta(backbone).requires_grad_(False)
    with torch.device('meta'):
        image = torch.zeros(1, 3, *size)
        return sum(count_macs(encoder, lambda: encoder.encode(image, keep))) / 1e6


def draw(rows: Sequence[dict[str, Any]], title: str, file: Path) -> None:
    """Two panels: top-1 against images a second, and against operations.

    Args:
        rows (Sequence[dict]): Of the table.
        title (str): Above the panels.
        file (Path): PNG to write.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.8), layout='constrained')
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, 2, sharey=True)
    panels = (('speed', 'images a second'), ('macs', 'encoder, million MAC an image'))
    for axis, (key, label) in zip(axes, panels, strict=True):
        for probe, mark in (('frozen', 'o-'), ('own', 's--')):
            x, y = [r[key] for r in rows], [r[probe] for r in rows]
            axis.plot(x, y, mark, label=f'{probe} probe', markersize=5)
        for row in rows:
            axis.annotate(
                f'K={row["keep"]}',
                (row[key], max(row['frozen'], row['own'])),
                textcoords='offset points',
                xytext=(0, 6),
                ha='center',
                fontsize=8,
            )
        axis.set_xlabel(label)
        axis.margins(0.12, 0.18)
        axis.grid(alpha=0.3)
    axes[0].set_ylabel('top-1 (%)')
    axes[0].legend(loc='lower left', fontsize=8)
    figure.suptitle(title, fontsize=10)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=130)


def main(argv: Sequence[str] | None = None) -> int:
    from mergevq_mm.evaluation.features import load_token_features

    args = parse_args(argv)
    cfg = read_config(args)
    device = device_of(args)
    model, preprocessor = load_token_features(
        cfg, args.checkpoint, args.features, device=device
    )
    args_of_batch = argparse.Namespace(**vars(args))
    args_of_batch.batch_size, args_of_batch.num_workers = args.time_batch, 0
    batch = next(iter(loader_of(cfg, 'val', args_of_batch)))
    images = preprocessor(batch, False)['inputs']
    size = tuple(images.shape[-2:])
    rows, columns = model.backbone.grid_of(*size)
    length = rows * columns
    shares = (1 / 2, 1 / 4, 1 / 7)
    keeps = args.keep or [max(round(share * length), 1) for share in shares]
    keeps = sorted({length, *keeps}, reverse=True)  # merging off is the reference

    measured = speeds(model.backbone, images, keeps, args.repeats)
    found = accuracies(cfg, keeps, length, args)
    report = Report(
        f'Throughput against accuracy, L = {length}, {size[0]}x{size[1]} px, '
        f'{" + ".join(args.features)}',
        {
            'keep': 'K|d',
            'frozen': 'frozen probe (%)|.2f',
            'own': 'own probe (%)|.2f',
            'speed': 'images/s|.1f',
            'faster': 'times faster|.2f',
            'macs': 'MMAC|.2f',
            'fewer': 'times fewer MAC|.2f',
        },
        args,
        torch.device(device),
    )
    most = operations(cfg.model.backbone, size, length)
    for keep in keeps:
        macs = operations(cfg.model.backbone, size, keep)
        report.add(
            keep=keep,
            **found[keep],
            speed=measured[keep],
            faster=measured[keep] / measured[length],
            macs=macs,
            fewer=most / macs,
        )
    report.show()
    if args.png is not None:
        draw(report.rows, f'{Path(args.config).stem}, L = {length}', args.png)
        print(f'drawn to {args.png}')
    return 0


if __name__ == '__main__':
    run_main(main)
