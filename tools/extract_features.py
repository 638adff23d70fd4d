r"""Write the features of a data set: class token, mean of tokens, mean of codes.

One pass gives all three, merging off or on. The file holds an array a feature, the
labels and the paths; npz or safetensors by its ending, neither with pickled content.
Images are prepared as in validation.

Examples (CONFIG=configs/mergevq_g+r.py):
    python tools/extract_features.py $CONFIG CHECKPOINT features/val.npz
    python tools/extract_features.py $CONFIG CHECKPOINT train_k144.safetensors \
        --split train --features cls codes --keep 144
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from extract_codes import READS, dataset_config, progress
from mmengine.config import Config, DictAction

import mergevq_mm  # noqa: F401  first: makes the installed stack usable
from mergevq_mm.cli.keep_arguments import add_budget, budget_of, keep_of
from mergevq_mm.utils import config as config_utils
from mergevq_mm.utils.config_options import merge_options

if TYPE_CHECKING:
    from torch.utils.data import DataLoader

    from mergevq_mm.models.utils.budget import Budget

# Those of mergevq_mm.evaluation.features, whose import would make --help slow.
FEATURES = ('cls', 'avg', 'codes')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of every tool that extracts features.

    Args:
        parser (ArgumentParser): Of the tool.
    """
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


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config', help='config file of a MergeVQ, stage 1')
    parser.add_argument('checkpoint', help='path or URL of a checkpoint of it')
    parser.add_argument('out', help='.npz or .safetensors file to write')
    parser.add_argument('--split', choices=['train', 'val', 'test'], default='val')
    parser.add_argument(
        '--features', nargs='+', choices=FEATURES, default=list(FEATURES)
    )
    parser.add_argument(
        '--keep',
        type=keep_of,
        metavar='K',
        help='tokens to keep, or their share such as 0.25. Default: no merging',
    )
    add_budget(parser, decoder=False)
    add_arguments(parser)
    return parser.parse_args(argv)


def read_config(args: argparse.Namespace) -> Config:
    """The config of the command line, with its scope as the default one.

    Args:
        args (Namespace): The command line.

    Returns:
        Config: With the overrides.
    """
    from mmengine.registry import init_default_scope

    cfg = config_utils.load_config(args.config)
    merge_options(cfg, args.cfg_options, READS)
    init_default_scope(cfg.get('default_scope') or 'mmpretrain')
    return cfg


def device_of(args: argparse.Namespace) -> str:
    """The device of the command line, or a GPU where there is one."""
    import torch

    return args.device or ('cuda' if torch.cuda.is_available() else 'cpu')


def loader_of(cfg: Config, split: str, args: argparse.Namespace) -> DataLoader:
    """The images of a split in their order, prepared as in validation.

    Args:
        cfg (Config): A stage-1 config.
        split (str): 'train', 'val' or 'test'.
        args (Namespace): With the flags of :func:`add_arguments`.

    Returns:
        DataLoader: Of mmpretrain's batches.
    """
    from mmengine.dataset import default_collate
    from torch.utils.data import DataLoader

    from mergevq_mm.registry import DATASETS

    dataset = DATASETS.build({**dataset_config(cfg, split), 'test_mode': True})
    workers = args.num_workers
    if workers is None:
        workers = (cfg.get('val_dataloader') or {}).get('num_workers', 0)
    return DataLoader(
        dataset, args.batch_size, num_workers=workers, collate_fn=default_collate
    )


def extract(
    cfg: Config,
    split: str,
    features: Sequence[str],
    keep: int | float | Budget | None,
    args: argparse.Namespace,
) -> dict[str, Any]:
    """Features of a split, with a progress bar.

    Args:
        cfg (Config): A stage-1 config.
        split (str): 'train', 'val' or 'test'.
        features (Sequence[str]): Of ``FEATURES``.
        keep (int | float | Budget, optional): Tokens to keep; None for all.
        args (Namespace): With ``checkpoint`` and the flags of :func:`add_arguments`.

    Returns:
        dict[str, Any]: Arrays by name, ``label`` and ``path``, and in ``classes`` the
        names of all classes, a list (empty where the data set has none).
    """
    from mergevq_mm.evaluation.features import collect_features, load_token_features

    model, preprocessor = load_token_features(
        cfg, args.checkpoint, features, keep, device_of(args)
    )
    loader = loader_of(cfg, split, args)
    with progress(len(loader.dataset)) as advance:
        rows = collect_features(model, loader, preprocessor, advance)
    rows['classes'] = [str(c) for c in loader.dataset.metainfo.get('classes') or ()]
    return rows


def check_labels(train: Mapping[str, Any], val: Mapping[str, Any]) -> None:
    """Refuse features whose labels cannot be compared.

    Args:
        train (Mapping[str, Any]): Of the images that are learnt from, as
            :func:`extract` returns them; files of old versions lack ``classes``.
        val (Mapping[str, Any]): Of those that are judged.

    Raises:
        ValueError: If images have no label, or the classes have other numbers.
    """
    from mergevq_mm.datasets.class_numbers import check_same_classes

    for name, rows in (('training', train), ('held-out', val)):
        if rows['label'].min() < 0:
            raise ValueError(
                f'the {name} images have no labels; choose a split with labels.'
            )
    check_same_classes(
        {
            'the training images': train.get('classes', ()),
            'the held-out images': val.get('classes', ()),
        },
        'give both sets the same metainfo=dict(classes=[…]), or one data_root.',
    )


def guarded(work: Callable[[], None]) -> None:
    """Run a tool; what is wrong with its input ends in one line.

    Args:
        work (Callable): The tool.
    """
    try:
        work()
    except (OSError, ValueError) as error:
        sys.exit(f'error: {error}')


def run(args: argparse.Namespace) -> None:
    """Extract and write.

    Args:
        args (Namespace): The command line.
    """
    from mergevq_mm.evaluation.feature_files import check_ending, write_features

    check_ending(args.out)  # before the work
    keep = budget_of(args) or args.keep
    rows = extract(read_config(args), args.split, args.features, keep, args)
    classes = rows.pop('classes')
    keep = 'all' if str(keep) in ('None', '1.0') else str(keep)
    metadata = {
        'config': str(args.config),
        'checkpoint': str(args.checkpoint),
        'split': args.split,
        'keep': keep,
        'classes': json.dumps(classes),
        'version': mergevq_mm.__version__,
    }
    write_features(args.out, rows, metadata)
    shapes = ', '.join(f'{name} {rows[name].shape[1]}' for name in args.features)
    print(f'{len(rows["label"])} images, K = {keep}, widths {shapes}: {args.out}')


if __name__ == '__main__':
    guarded(lambda: run(parse_args()))
