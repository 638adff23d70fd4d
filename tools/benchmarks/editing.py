r"""Edits of held-out images: are all other tokens kept, and is the class right?

A part of each image is drawn anew by a trained generator, with its class and without,
and a classifier judges the results. Columns: `right` is the share of the edits that it
assigns to the image's class, `blank` that of the same images with the part black,
`whole` that of the reconstructions at this K, all by the true map. `kept` is the share
of the edits whose tokens outside of the part equal those of the image to the bit.
`edited` counts the images that have a token of their own in the part (all of them at
K = L), `drawn` the tokens that are drawn, on average.

Examples (Q=configs/quickstart):
    python tools/benchmarks/editing.py $Q/randar_mnist5k_places.py CHECKPOINT
    python tools/benchmarks/editing.py $Q/mergear_mnist5k.py CHECKPOINT --parts lower \
        --png edits.png
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from common import add_arguments, positive, run_main, start
from mmengine.config import DictAction
from reporting import Report

import mergevq_mm  # noqa: F401  (before torchvision and mmpretrain)
from mergevq_mm.apis.editing_inferencer import REGIONS, named_region

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from generate import build_generator

if TYPE_CHECKING:
    from mmengine.config import Config
    from torch import Tensor

    from mergevq_mm.evaluation.metrics import ClassConsistency
    from mergevq_mm.models.generators.code_generator import CodeGenerator

PARTS = {name.split()[0]: name for name in REGIONS}
COLUMNS = {
    'name': 'part, by class or without',
    'edited': 'edited|d',
    'drawn': 'drawn|.1f',
    'kept': 'kept (%)|.1f',
    'right': 'right (%)|.1f',
    'blank': 'blank (%)|.1f',
    'whole': 'whole (%)|.1f',
}
SHOWN = 10  # images of a picture


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config', help='config file of a generator, stage 2')
    parser.add_argument('checkpoint', help='path or URL of a checkpoint of it')
    parser.add_argument('--judge', help="checkpoint of the config's classifier")
    parser.add_argument(
        '--parts', nargs='+', choices=list(PARTS), default=list(PARTS), metavar='PART'
    )
    parser.add_argument(
        '--number',
        type=positive,
        default=1000,
        help='images, evenly spread. Default: 1000',
    )
    parser.add_argument('--batch-size', type=positive, default=100)
    parser.add_argument('--keep', type=int, help="K. Default: the config's")
    parser.add_argument(
        '--png', type=Path, help='also draw ten images, their parts, and their edits'
    )
    parser.add_argument('--cfg-options', nargs='+', action=DictAction)
    add_arguments(parser)
    return parser.parse_args(argv)


def judge_of(cfg: Config, checkpoint: str | None) -> ClassConsistency:
    """The classifier that a config's test judges generated images with.

    Raises:
        ValueError: If it has none.
    """
    from mergevq_mm.registry import METRICS

    for metric in (cfg.get('test_evaluator') or {}).get('metrics', []):
        if metric['type'].rpartition('.')[2] == 'ClassConsistency':
            if checkpoint:
                metric.classifier.init_cfg.checkpoint = checkpoint
            return METRICS.build(metric)
    raise ValueError(
        'config has no ClassConsistency in test_evaluator.metrics to judge edits by; '
        'add one, as configs/quickstart/mergear_mnist5k.py does.'
    )


def batches(
    cfg: Config, model: CodeGenerator, number: int, size: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Held-out images B×3×H×W in [-1, 1] and their classes B."""
    from mmengine.dataset import pseudo_collate

    from mergevq_mm.registry import DATASETS

    data = DATASETS.build(cfg.val_dataloader.dataset)
    step = max(len(data) // number, 1)
    chosen = range(0, len(data), step)[:number]
    count = -(-len(chosen) // size)
    # Folders are sorted by class: each batch takes its share of all of them.
    for first in range(count):
        batch = pseudo_collate([data[i] for i in chosen[first::count]])
        ready = model.data_preprocessor(batch, training=True)
        labels = torch.cat([s.gt_label for s in batch['data_samples']])
        yield ready['inputs'], labels.to(model.device)


def right(judge: ClassConsistency, images: Tensor, labels: Tensor) -> list[bool]:
    """Whether the judge sees each image's class."""
    pixels = images.clamp(-1, 1).add(1).mul(127.5).round().flip(1)  # BGR
    samples = [
        {'fake_img': image, 'gt_label': int(label)}
        for image, label in zip(pixels, labels, strict=True)
    ]
    return [label == seen for label, seen in judge.measure(samples)]


@torch.no_grad()
def edit_all(
    model: CodeGenerator,
    judge: ClassConsistency,
    data: list[tuple[Tensor, Tensor]],
    part: str,
    keep: int,
    by_class: bool,
    seed: int,
) -> tuple[dict[str, Any], list[Tensor]]:
    """Edit a part of all images.

    Returns:
        tuple[dict, list[Tensor]]: A row of the table; and of the first batch some
        images, what is drawn anew in them as a mask, and their edits.
    """
    from mergevq_mm.models.generators.editing import tokenize_known
    from mergevq_mm.models.generators.generation_request import seeds_of

    counts: dict[str, list[float]] = {name: [] for name in list(COLUMNS)[2:]}
    shown: list[Tensor] = []
    done = 0
    for images, labels in data:
        mask = torch.from_numpy(named_region(PARTS[part], tuple(images.shape[-2:])))
        known = tokenize_known(model.tokenizer, images, mask, keep, len(images))
        free = known.free if keep == model.tokenizer.length else known.free_groups()
        if getattr(model, 'sequence', None) == 'raster':
            free = known.free
        can = free.any(dim=1)
        images, labels, known = images[can], labels[can], known.rows(can)
        if not len(images):
            continue
        made, drawn = model.generate(
            labels if by_class else None,
            keep=keep,
            seeds=seeds_of(seed, range(done, done + len(images))),
            known=images,
            region=mask,
        )
        before = known.raster()
        whole = model.tokenizer.decode(before, model.grid)
        blank = images.masked_fill(mask.to(images.device), -1)
        same = (drawn.index == before) | known.free
        counts['drawn'] += free[can].sum(dim=1).tolist()
        counts['kept'] += same.all(dim=1).tolist()
        for name, judged in (('right', made), ('blank', blank), ('whole', whole)):
            counts[name] += right(judge, judged, labels)
        if not done:
            shown = [images[:: len(images) // SHOWN or 1][:SHOWN], mask]
            shown.append(made[:: len(images) // SHOWN or 1][:SHOWN])
        done += len(images)
    means = {
        name: sum(values) / max(len(values), 1) * (1 if name == 'drawn' else 100)
        for name, values in counts.items()
    }
    return {'edited': done, **means}, shown


def picture(shown: Sequence[list[Tensor]], path: Path) -> None:
    """Write rows of images, their parts, and their edits as PNG."""
    from mergevq_mm.visualization import sample_grid, save_png, shade_region, to_uint8

    rows, columns = [], 0
    for images, mask, *edits in shown:
        pixels = [to_uint8(image * 0.5 + 0.5) for image in images]
        rows += [*pixels, *(shade_region(one, mask.numpy()) for one in pixels)]
        for made in edits:
            rows += [to_uint8(image * 0.5 + 0.5) for image in made]
        columns = len(pixels)
    save_png(path, sample_grid(rows, columns))


def main(argv: Sequence[str] | None = None) -> int:
    from mergevq_mm.utils.config import load_config

    args = parse_args(argv)
    device = start(args)
    cfg = load_config(args.config)
    cfg.merge_from_dict(args.cfg_options or {})
    judge = judge_of(cfg, args.judge)
    model = build_generator(cfg, args.checkpoint, args.device)
    judge.prepare(model, None)
    default = model.sample_cfg.get('keep', model.keep_sampler.target)
    keep = model.check_keep(default if args.keep is None else args.keep)
    report = Report(
        f'edits at K = {keep} of {model.tokenizer.length}', COLUMNS, args, device
    )
    shown = []
    data = list(batches(cfg, model, args.number, args.batch_size))
    for part in args.parts:
        rows = []
        for by_class in (True, False):
            row, seen = edit_all(model, judge, data, part, keep, by_class, args.seed)
            report.add(name=f'{part}, {"by class" if by_class else "without"}', **row)
            rows.append(seen)
        if all(rows):
            shown.append([*rows[0], rows[1][2]])
    report.show()
    if args.png and shown:
        picture(shown, args.png)
        print(f'drawn in {args.png}: image, part, by class, without')
    return 0


if __name__ == '__main__':
    run_main(main)
