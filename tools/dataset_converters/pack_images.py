"""Pack the images of class folders into one LMDB or into tar files.

Examples:
    python tools/dataset_converters/pack_images.py data/imagenet data/packed
    python tools/dataset_converters/pack_images.py data/packed --index-only

The second form makes the index and the list of shards that are there already
(``data/packed/train.tars/*.tar``, each image with a ``.cls`` file, as WebDataset has
them). How a config reads them stands in docs/speed.md.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import mergevq_mm  # noqa: F401  first: makes the installed stack usable


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('data_root', type=Path, help='folder above the split')
    parser.add_argument('out_dir', type=Path, nargs='?', help='data root to write')
    parser.add_argument('--split', default='train', help='default: train')
    parser.add_argument('--format', choices=['lmdb', 'tar'], default='tar')
    parser.add_argument(
        '--shard-mb', type=int, default=1024, help='size of a tar file (default: 1024)'
    )
    parser.add_argument(
        '--index-only', action='store_true', help='of shards that are there'
    )
    args = parser.parse_args(argv)
    if not args.index_only and args.out_dir is None:
        parser.error('out_dir is missing: give the folder to write.')
    return args


class Progress:
    """A line every ten seconds, with or without a terminal.

    Args:
        total (int): Images in all.
    """

    def __init__(self, total: int) -> None:
        self.total = total
        self.start = self.last = time.monotonic()

    def __call__(self, done: int) -> None:
        """Tell how far it is."""
        from mergevq_mm.utils.clock import clock

        now = time.monotonic()
        if done < self.total and now - self.last < 10:
            return
        self.last = now
        left = (now - self.start) / done * (self.total - done)
        print(f'pack: {done}/{self.total} images, {clock(left)} left', flush=True)


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    from mergevq_mm.datasets.packing import index_shards, list_images, pack, write_list

    try:
        if args.index_only:
            folder = args.data_root / f'{args.split}.tars'
            images = index_shards(folder)
            write_list(images, args.data_root, args.split)
            print(f'{len(images)} images with a class are listed of {folder}')
            return
        images = list_images(args.data_root, args.split)
        target = pack(
            images,
            args.out_dir,
            args.split,
            args.format,
            args.shard_mb * 2**20,
            Progress(len(images)),
        )
    except (OSError, ValueError) as error:
        sys.exit(f'error: {error}')
    print(f'{len(images)} images are in {target}')


if __name__ == '__main__':
    main()
