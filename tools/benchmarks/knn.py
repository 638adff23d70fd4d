"""k-nearest neighbours and a linear probe of a trained tokenizer's features.

Nothing is trained by gradient steps: the features of the training and of the held-out
images are extracted once, then each held-out image is classified by its k nearest
training images (cosine, weights exp(cosine / 0.07), as DINO has it) for all k, and on
demand by scikit-learn's logistic regression.

Examples (CONFIG=configs/mergevq_g+r.py):
    python tools/benchmarks/knn.py $CONFIG CHECKPOINT
    python tools/benchmarks/knn.py $CONFIG CHECKPOINT --features cls codes --keep 144
    python tools/benchmarks/knn.py --gallery train.npz --queries val.npz --probe
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from common import run_main
from reporting import Report

import mergevq_mm  # noqa: F401  (before torchvision and mmpretrain)
from mergevq_mm.cli.keep_arguments import keep_of

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from extract_features import (
    FEATURES,
    add_arguments,
    check_labels,
    extract,
    read_config,
)

PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config', nargs='?', help='config file of a MergeVQ, stage 1')
    parser.add_argument('checkpoint', nargs='?', help='path or URL of a checkpoint')
    parser.add_argument('--gallery', help='features of tools/extract_features.py')
    parser.add_argument('--queries', help='features of the images to classify')
    parser.add_argument(
        '--features', nargs='+', choices=FEATURES, default=['cls', 'avg', 'codes']
    )
    parser.add_argument(
        '--k', nargs='+', type=int, default=[10, 20, 100, 200], metavar='N'
    )
    parser.add_argument('--temperature', type=float, default=0.07)
    parser.add_argument(
        '--keep',
        type=keep_of,
        metavar='K',
        help='tokens to keep, or their share such as 0.25. Default: no merging',
    )
    parser.add_argument('--probe', action='store_true', help='also logistic regression')
    parser.add_argument('--json', type=Path, help='also write the numbers to this file')
    add_arguments(parser)
    return parser.parse_args(argv)


def feature_sets(
    args: argparse.Namespace,
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Features of the training and of the held-out images.

    Args:
        args (Namespace): The command line.

    Returns:
        tuple[dict, dict]: As ``collect_features`` returns them.

    Raises:
        ValueError: If the command line names neither a model nor two files, or a file
            lacks a feature.
    """
    if args.gallery and args.queries:
        from mergevq_mm.evaluation.feature_files import read_features

        sets = []
        for file in (args.gallery, args.queries):
            rows, metadata = read_features(file)
            classes = json.loads(metadata.get('classes', '[]'))
            sets.append({**rows, 'classes': classes})
        for file, rows in zip((args.gallery, args.queries), sets, strict=True):
            missing = [name for name in args.features if name not in rows]
            if missing:
                raise ValueError(
                    f'"{file}" has no feature {missing[0]!r}; choose --features from '
                    f'{", ".join(name for name in FEATURES if name in rows)}.'
                )
        return sets[0], sets[1]
    if args.gallery or args.queries or not (args.config and args.checkpoint):
        raise ValueError(
            'give a config and a checkpoint, or both --gallery and --queries.'
        )
    cfg = read_config(args)
    train, val = (
        extract(cfg, split, args.features, args.keep, args)
        for split in ('train', 'val')
    )
    return train, val


def main(argv: Sequence[str] | None = None) -> int:
    from mergevq_mm.evaluation.knn import knn_accuracy
    from mergevq_mm.evaluation.probe import linear_probe

    args = parse_args(argv)
    train, val = feature_sets(args)
    check_labels(train, val)
    columns = {'feature': 'feature', 'width': 'width|d'}
    columns |= {str(k): f'k = {k} (%)|.2f' for k in args.k}
    if args.probe:
        columns['probe'] = 'logistic regression (%)|.2f'
    keep = 'off' if str(args.keep) in ('None', '1.0') else f'K = {args.keep}'
    given = ' (as in the files)' if args.gallery else ''
    report = Report(
        f'k-NN, {len(val["label"])} images against {len(train["label"])}, '
        f'temperature {args.temperature}, merging {keep}{given}',
        columns,
        args,
        torch.device('cpu'),
    )
    labels, truth = train['label'], val['label']
    for name in args.features:
        tensors = map(torch.from_numpy, (train[name], labels, val[name], truth))
        found = knn_accuracy(*tensors, args.k, args.temperature)
        row = {str(k): 100 * value for k, value in found.items()}
        if args.probe:
            score = linear_probe(train[name], labels, val[name], truth, PENALTIES)
            row['probe'] = 100 * score
        report.add(feature=name, width=train[name].shape[1], **row)
    report.show()
    return 0


if __name__ == '__main__':
    run_main(main)
