"""Images a second out of a folder, an LMDB and tar files.

The images are real photographs (those of scikit-image and scikit-learn, cut and written
as JPEG, about the size of ImageNet's), packed in a temporary folder. ``read`` fetches
bytes alone, ``load`` also decodes, resizes and crops as the ImageNet configs do in
validation, in the worker processes of a data loader. ``cold`` asks the system to forget
the files first, as far as it lets an ordinary user; on a local disk that is not what a
cluster's file system does.

Examples:
    python tools/benchmarks/data_loading.py
    python tools/benchmarks/data_loading.py --images 5000 --workers 0 8 16
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from common import add_arguments, interleaved, median_ratio, run_main, start
from PIL import Image
from reporting import Report
from torch.utils.data import DataLoader

import mergevq_mm  # noqa: F401  (before torchvision and mmpretrain)
from mergevq_mm.datasets import ImageFolder
from mergevq_mm.datasets.packing import list_images, pack

KINDS = ('folder', 'lmdb', 'tar')


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Benchmark of data loading')
    parser.add_argument('--images', type=int, default=600, help='default: 600')
    parser.add_argument(
        '--workers', type=int, nargs='+', default=[0, 1, 2], help='default: 0 1 2'
    )
    parser.add_argument('--kinds', nargs='+', choices=KINDS, default=KINDS)
    parser.add_argument('--batch-size', type=int, default=32, help='default: 32')
    parser.add_argument('--folder', help="where the files lie. Default: the system's")
    add_arguments(parser, repeats=3)
    return parser.parse_args(argv)


def write_images(folder: Path, number: int, seed: int) -> float:
    """Write JPEGs of about 500×375 pixels into two classes.

    Args:
        folder (Path): Data root.
        number (int): Images.
        seed (int): Of the cuts.

    Returns:
        float: Mean size of a file in kB.
    """
    from photographs import FILES, photograph

    rng = np.random.RandomState(seed)
    names = list(FILES)
    pixels = [photograph(name) for name in names]
    for i in range(number):
        source = pixels[i % len(names)]
        share = rng.uniform(0.5, 0.9)
        height, width = (int(n * share) for n in source.shape[:2])
        top = rng.randint(source.shape[0] - height + 1)
        left = rng.randint(source.shape[1] - width + 1)
        cut = Image.fromarray(source[top : top + height, left : left + width])
        path = folder / 'train' / 'ab'[i % 2] / f'{i:06d}.jpg'
        path.parent.mkdir(parents=True, exist_ok=True)
        cut.resize((500, 375), Image.Resampling.BICUBIC).save(path, quality=93)
    sizes = [path.stat().st_size for path in folder.rglob('*.jpg')]
    return sum(sizes) / len(sizes) / 1000


def make_sources(folder: Path, kinds: Sequence[str]) -> dict[str, ImageFolder]:
    """The same data set out of each kind of storage, with the ImageNet pipeline.

    Args:
        folder (Path): Data root of the images.
        kinds (Sequence[str]): Of ``KINDS``.

    Returns:
        dict[str, ImageFolder]: Kind to data set.
    """
    images = list_images(folder, 'train')
    found = {}
    for kind in kinds:
        root, args = folder, None
        if kind != 'folder':
            root = folder / kind
            path = pack(images, root, 'train', kind)
            args = {'backend': f'mergevq_{kind}', 'path': str(path)}
        found[kind] = ImageFolder(
            str(root),
            'train',
            test_mode=True,
            pipeline=[
                {'type': 'mergevq_mm.LoadImage', 'backend_args': args},
                {
                    'type': 'mmpretrain.ResizeEdge',
                    'scale': 256,
                    'edge': 'short',
                    'backend': 'pillow',
                    'interpolation': 'bilinear',
                },
                {'type': 'mmpretrain.CenterCrop', 'crop_size': 256},
                {'type': 'mmpretrain.PackInputs'},
            ],
        )
    return found


def forget(folder: Path) -> None:
    """Ask the system to drop the pages of all files below a folder."""
    for path in folder.rglob('*'):
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)


def read_all(data: ImageFolder, order: Sequence[int]) -> int:
    """Fetch the bytes of all images in an order; how many there were."""
    from mmengine import fileio

    args = data.pipeline.transforms[0].backend_args
    paths = [data.get_data_info(int(i))['img_path'] for i in order]
    return sum(len(fileio.get(path, backend_args=args)) for path in paths)


def load_all(data: ImageFolder, workers: int, batch_size: int, seed: int) -> int:
    """Pass once over a data set in random order, as a training does."""
    loader = DataLoader(
        data,
        batch_size,
        shuffle=True,
        num_workers=workers,
        collate_fn=lambda samples: torch.stack([s['inputs'] for s in samples]),
        generator=torch.Generator().manual_seed(seed),
    )
    return sum(len(batch) for batch in loader)


def add_rows(
    report: Report, what: str, seconds: dict[str, list[float]], number: int
) -> None:
    """A row for each storage of one piece of work."""
    base = next(iter(seconds))
    for kind, times in seconds.items():
        report.add(
            work=what,
            kind=kind,
            rate=number / median(times),
            ratio=median_ratio(seconds[base], times),
        )


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    device = start(args)
    with tempfile.TemporaryDirectory(dir=args.folder) as temporary:
        folder = Path(temporary)
        size = write_images(folder, args.images, args.seed)
        sources = make_sources(folder, args.kinds)
        report = Report(
            f'Loading {args.images} JPEGs of 500x375 pixels, {size:.0f} kB each',
            {
                'work': 'work',
                'kind': 'storage',
                'rate': 'images/s|,.0f',
                'ratio': f'against {args.kinds[0]}|.2f',
            },
            args,
            device,
        )
        order = np.random.RandomState(args.seed).permutation(args.images)

        def timed(work: Callable[[ImageFolder], Any]) -> dict[str, list[float]]:
            return interleaved(
                {kind: lambda data=data: work(data) for kind, data in sources.items()},
                args.repeats,
                device,
            )

        add_rows(report, 'read, warm', timed(lambda d: read_all(d, order)), args.images)
        cold: dict[str, list[float]] = {kind: [] for kind in sources}
        for _ in range(args.repeats):
            for kind, data in sources.items():
                forget(folder)
                spent = interleaved(
                    {kind: lambda data=data: read_all(data, order)}, 1, device, warmup=0
                )
                cold[kind] += spent[kind]
        add_rows(report, 'read, cold', cold, args.images)
        for workers in args.workers:
            spent = timed(
                lambda d, n=workers: load_all(d, n, args.batch_size, args.seed)
            )
            add_rows(report, f'load, {workers} workers', spent, args.images)
        report.note('rates are medians over the turns; ratios are taken within a turn.')
        report.show(kilobytes=size)
    return 0


if __name__ == '__main__':
    run_main(main)
