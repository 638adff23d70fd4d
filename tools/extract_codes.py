"""Encode a data set with a trained MergeVQ, once, for the training of generators.

Writes shards of memory-mapped files that `mergevq_mm.MergeVQCodes` reads: for each
image the codes and the group map at each K, of the image and of its mirror image, and
its class. Images are prepared as in validation (resize, centre crop), or with --views N
as N random crops. An interrupted run is continued by the same command; shards that are
complete are kept. Within a budget (docs/budget.md) each image is encoded at one K of
its own, and its mirror image at the same; a mean holds over each batch.

Examples (CONFIG=configs/mergevq_g+r.py):
    python tools/extract_codes.py $CONFIG CHECKPOINT data/codes --keep 144 196 256
    python tools/extract_codes.py $CONFIG CHECKPOINT data/codes --mean-tokens 144
    python tools/extract_codes.py $CONFIG CHECKPOINT data/codes --views 10
    python tools/extract_codes.py $CONFIG CHECKPOINT data/val --split val --no-flip
    torchrun --nproc-per-node 8 tools/extract_codes.py $CONFIG CHECKPOINT data/codes
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Callable

import numpy as np
from mmengine.config import Config, DictAction

import mergevq_mm  # noqa: F401  first: makes the installed stack usable
from mergevq_mm.cli.keep_arguments import add_budget, budget_of
from mergevq_mm.utils import config as config_utils
from mergevq_mm.utils.config_options import merge_options

if TYPE_CHECKING:
    from torch.utils.data import Dataset

    from mergevq_mm.datasets.codes import CodesHeader
    from mergevq_mm.models.generators.tokenizer import FrozenTokenizer
    from mergevq_mm.models.utils.budget import Budget

Encode = Callable[[dict], dict[str, np.ndarray]]

# What this tool and its siblings read of a stage-1 config.
READS = (
    'model',
    'data_preprocessor',
    'default_scope',
    'codes_pipeline',
    'train_dataloader.dataset',
    'val_dataloader.dataset',
    'test_dataloader.dataset',
    'val_dataloader.num_workers',
)


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config', help='config file of a MergeVQ, stage 1')
    parser.add_argument('checkpoint', help='path or URL of a checkpoint of it')
    parser.add_argument('out', help='folder to write or to continue')
    parser.add_argument(
        '--keep',
        nargs='+',
        type=int,
        metavar='K',
        help="default: the config's target, of a budget some to choose from",
    )
    add_budget(parser)
    parser.add_argument(
        '--split',
        choices=['train', 'val', 'test'],
        default='train',
        help="whose data loader's data set to encode; default: train",
    )
    parser.add_argument(
        '--flip',
        action=argparse.BooleanOptionalAction,
        default=True,
        help='also encode mirror images; default: yes',
    )
    parser.add_argument(
        '--views',
        type=int,
        default=1,
        help="random views of each image, by the config's codes_pipeline; with 1 (the "
        'default) the one view of validation',
    )
    parser.add_argument(
        '--shard-size',
        type=int,
        default=25000,
        help='images a shard; an interruption loses one at most. Default: 25000',
    )
    parser.add_argument(
        '--batch-size', type=int, default=64, help='images a batch. Default: 64'
    )
    parser.add_argument(
        '--num-workers', type=int, help="default: that of the config's val_dataloader"
    )
    parser.add_argument('--device', help='default: cuda if there is one')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        help='settings of the config to override, as key=value',
    )
    return parser.parse_args(argv)


# ---------------------------------------------------------------------- preparation


def dataset_config(cfg: Config, split: str, views: int = 1) -> dict[str, Any]:
    """The data set of a split, its images prepared as in validation, or as views.

    Args:
        cfg (Config): A stage-1 config.
        split (str): 'train', 'val' or 'test'.
        views (int): Random views of each image by the config's ``codes_pipeline``, or
            1 for the view of validation. Defaults to 1.

    Returns:
        dict: Config of a data set.

    Raises:
        ValueError: If the config lacks the data set or the pipeline, or there are no
            views.
    """
    if views < 1:
        raise ValueError(f'--views {views} leaves nothing to encode; give at least 1.')
    if views > 1 and 'codes_pipeline' not in cfg:
        raise ValueError(
            f'--views {views}: config has no codes_pipeline, which makes the random '
            'views; add one (see configs/_base_/datasets/), or leave --views out.'
        )
    loaders = {name: cfg.get(f'{name}_dataloader') or {} for name in (split, 'val')}
    for name, loader in loaders.items():
        if 'pipeline' not in loader.get('dataset', {}):
            raise ValueError(
                f'--split {split}: config has no {name}_dataloader.dataset.pipeline; '
                'choose another split, or a config that has one.'
            )
    data = loaders[split]['dataset']
    if views > 1:
        images = {**data, 'pipeline': cfg.codes_pipeline}
        return {'type': 'mergevq_mm.SeededViews', 'dataset': images, 'times': views}
    return {**data, 'pipeline': loaders['val']['dataset']['pipeline']}


def describe_dataset(dataset: Dataset, preparation: Any) -> tuple[tuple[str, ...], str]:
    """Names of the classes, and a digest of images, labels and how they are prepared.

    Args:
        dataset (Dataset): One of mmpretrain's.
        preparation (Any): Its pipeline, and what else makes the images different.

    Returns:
        tuple[tuple[str, ...], str]: Both; the data may be moved to another root.

    Raises:
        ValueError: If the images have no labels, or labels beyond the classes.
    """
    digest = hashlib.sha256(json.dumps(preparation, default=str).encode())
    number = 0
    for i in range(len(dataset)):
        info = dataset.get_data_info(i)
        if 'gt_label' not in info:
            raise ValueError(
                'the data set has no labels, but generators learn the images of a '
                'class; choose a split with labels.'
            )
        path = os.path.relpath(info.get('img_path', '.'), dataset.data_root or '.')
        label = int(info['gt_label'])
        digest.update(f'{path}\n{label}\n'.encode())
        number = max(number, label + 1)
    names = dataset.metainfo.get('classes') or range(number)
    if number > len(names):
        raise ValueError(
            f'the data set names {len(names)} classes, but has images of the class '
            f'{number - 1}; give a name for each class, or none.'
        )
    return tuple(str(name) for name in names), digest.hexdigest()


def make_encoder(
    cfg: Config,
    tokenizer: FrozenTokenizer,
    header: CodesHeader,
    device: str,
    budget: Budget | None = None,
) -> Encode:
    """A function from a batch of the loader to rows of the arrays of a shard.

    Args:
        cfg (Config): A stage-1 config, for its preprocessor.
        tokenizer (FrozenTokenizer): On its device.
        header (CodesHeader): What to write.
        device (str): That device.
        budget (Budget, optional): That gives each image a K. Defaults to None.

    Returns:
        Callable[[dict], dict[str, np.ndarray]]: The function.
    """
    import torch

    from mergevq_mm.datasets.codes_writing import code_rows
    from mergevq_mm.registry import MODELS

    given = cfg.model.get('data_preprocessor') or cfg.get('data_preprocessor')
    to_unit = {'mean': [127.5] * 3, 'std': [127.5] * 3, 'to_rgb': True}
    preprocessor = MODELS.build(
        {'type': 'mmpretrain.SelfSupDataPreprocessor', **(given or to_unit)}
    ).to(device)

    @torch.inference_mode()
    def encode(data: dict) -> dict[str, np.ndarray]:
        data = preprocessor(data)
        labels = [int(sample.gt_label) for sample in data['data_samples']]
        rows = code_rows(tokenizer, data['inputs'], header, budget)
        return {'labels': np.asarray(labels, dtype=np.int64), **rows}

    return encode


def prepare(
    cfg: Config, args: argparse.Namespace
) -> tuple[CodesHeader, Dataset, Encode]:
    """Build data set and tokenizer, and check that they fit each other and ``out``.

    Args:
        cfg (Config): A stage-1 config.
        args (Namespace): The command line.

    Returns:
        tuple[CodesHeader, Dataset, Callable]: What to write, and from what.

    Raises:
        ValueError: If an argument does not fit the others, or ``out`` holds other data.
        FileNotFoundError: If a file is missing.
    """
    import torch
    from mmengine.dataset import default_collate
    from mmengine.registry import init_default_scope

    from mergevq_mm.datasets.codes import plan_codes
    from mergevq_mm.datasets.codes_writing import start_codes
    from mergevq_mm.models.generators.tokenizer import FrozenTokenizer
    from mergevq_mm.models.selfsup.mergevq_checks import read_keep_sampler
    from mergevq_mm.models.utils.graphed_methods import use_graphs
    from mergevq_mm.registry import DATASETS

    init_default_scope(cfg.get('default_scope') or 'mmpretrain')
    device = args.device or 'cpu'
    if args.device is None and torch.cuda.is_available():
        device = f'cuda:{os.environ.get("LOCAL_RANK", 0)}'
    tokenizer = FrozenTokenizer(cfg.get('model') or {}, args.checkpoint)
    use_graphs(tokenizer.to(device).network)
    budget = budget_of(args, keeps=args.keep)
    keeps = tokenizer.candidates(budget) if budget else args.keep
    if keeps is None:
        keeps = [read_keep_sampler(cfg.model.get('keep'), tokenizer.length).target]
    data_cfg = dataset_config(cfg, args.split, args.views)
    dataset = DATASETS.build(data_cfg)
    preparation = data_cfg.get('pipeline')
    if args.views > 1:
        preparation = [cfg.codes_pipeline, args.views, dataset.seed]
    classes, source = describe_dataset(dataset, preparation)
    header = plan_codes(
        samples=len(dataset),
        shard_size=args.shard_size,
        fingerprint=tokenizer.fingerprint(),
        bits=tokenizer.bits,
        split=tokenizer.split,
        grid=tokenizer.grid,
        keeps=tuple(sorted(keeps)),
        flips=1 + args.flip,
        classes=classes,
        source=source,
        budget=str(budget or ''),
        batch_size=args.batch_size if budget and budget.mean else 0,
    )
    encode = make_encoder(cfg, tokenizer, header, device, budget)
    encode(default_collate([dataset[0]]))  # what does not fit fails before it is begun
    start_codes(args.out, header)
    return header, dataset, encode


# ---------------------------------------------------------------------------- work


def extract(
    out: str, header: CodesHeader, dataset: Dataset, encode: Encode, **loader: Any
) -> None:
    """Write the shards that are not there yet, those of this process.

    Args:
        out (str): The folder.
        header (CodesHeader): What to write.
        dataset (Dataset): The images.
        encode (Callable): From a batch to rows of the arrays.
        **loader (Any): ``batch_size`` and ``num_workers``.
    """
    from mmengine.dataset import default_collate
    from torch.utils.data import DataLoader, Subset

    from mergevq_mm.datasets.codes_writing import missing_shards, write_shard

    rank = int(os.environ.get('RANK', 0))  # as torchrun sets them
    world = int(os.environ.get('WORLD_SIZE', 1))
    todo = missing_shards(out, header, rank, world)
    sizes = [shard['samples'] for shard in header.shards]
    with progress(sum(sizes[i] for i in todo), visible=rank == 0) as advance:
        for number in todo:
            first = sum(sizes[:number])
            part = Subset(dataset, range(first, first + sizes[number]))
            batches = DataLoader(part, collate_fn=default_collate, **loader)
            with write_shard(out, header, number) as arrays:
                row = 0
                for data in batches:
                    rows = encode(data)
                    count = len(rows['labels'])
                    for name, values in rows.items():
                        arrays[name][row : row + count] = values
                    row += count
                    advance(count)


@contextmanager
def progress(total: int, visible: bool = True) -> Iterator[Callable[[int], None]]:
    """A bar with the time left on a terminal; elsewhere a line every ten seconds.

    Args:
        total (int): Images to encode.
        visible (bool): Whether to show anything. Defaults to True.

    Yields:
        Callable[[int], None]: To be called with the number of images done.
    """
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn

    from mergevq_mm.utils.clock import clock

    console = Console()
    if visible and console.is_terminal:
        columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn())
        with Progress(*columns, TimeRemainingColumn(), console=console) as bar:
            task = bar.add_task('encode', total=total)
            yield lambda count: bar.advance(task, count)
        return
    start = last = time.monotonic()
    done = 0

    def advance(count: int) -> None:
        nonlocal done, last
        done, now = done + count, time.monotonic()
        if visible and (done == total or now - last >= 10):
            last = now
            left = clock((now - start) / done * (total - done))
            share = f'{done}/{total} ({100 * done // total} %)'
            print(f'encode: {share}, {left} left', flush=True)

    yield advance


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    try:
        cfg = config_utils.load_config(args.config)
        merge_options(cfg, args.cfg_options, READS)
        header, dataset, encode = prepare(cfg, args)
        workers = args.num_workers
        if workers is None:
            workers = cfg.val_dataloader.get('num_workers', 0)
        size = args.batch_size
        extract(args.out, header, dataset, encode, batch_size=size, num_workers=workers)
    except (OSError, ValueError) as error:
        sys.exit(f'error: {error}')
    except KeyboardInterrupt:
        sys.exit('interrupted: the same command continues from the last whole shard.')

    from mergevq_mm.datasets.codes import is_complete

    there = sum(is_complete(args.out, shard) for shard in header.shards)
    keeps = f'K {"of" if header.budget else "="} {", ".join(map(str, header.keeps))}'
    print(
        f'{header.samples} images, {keeps}: '
        f'{there} of {len(header.shards)} shards are in {args.out}.'
    )


if __name__ == '__main__':
    main()
