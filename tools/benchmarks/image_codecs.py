"""What images of a folder cost elsewhere: JPEG and WebP, and a linear map of patches.

A tokenizer gives a patch 18 bits. Rows of codecs tell how many bytes an image takes at
a quality, the file's head included, and its PSNR. Rows of a linear map, the principal
components of the patches of --train, tell the PSNR from so many real numbers a patch,
which are not even quantised.

Examples:
    python tools/benchmarks/image_codecs.py data/emoji/val --train data/emoji/train
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from common import add_arguments, positive, run_main, start
from PIL import Image
from reporting import Report

import mergevq_mm  # noqa: F401  (before torchvision and mmpretrain)
from mergevq_mm.evaluation.functional import psnr
from mergevq_mm.utils.images import decode_image, find_files, read_image

QUALITIES = (1, 10, 30, 50, 70)
COMPONENTS = (6, 12, 18, 24)


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('folder', help='images, in sub-folders or not, all of one size')
    parser.add_argument('--train', help='images of the linear map (default: no rows)')
    parser.add_argument('--patch', type=positive, default=8, help='default: 8')
    parser.add_argument(
        '--every', type=positive, default=1, help='take each n-th image; default: 1'
    )
    add_arguments(parser)
    return parser.parse_args(argv)


def read(folder: str, every: int) -> np.ndarray:
    """Images of a folder, N×H×W×3 uint8, all as large as the first one.

    Raises:
        ValueError: If there is none, or their sizes differ.
    """
    files, _ = find_files(folder)
    images = [np.asarray(read_image(file)) for file in files[::every]]
    sizes = {image.shape for image in images}
    if len(sizes) != 1:
        found = ', '.join(f'{h}×{w}' for h, w, _ in sorted(sizes)) or 'none'
        raise ValueError(
            f'"{folder}" has images of the sizes {found}; give a folder with images of '
            'one size.'
        )
    return np.stack(images)


def quality(decoded: np.ndarray, images: np.ndarray) -> float:
    """Mean PSNR of images in dB, N×H×W×C in [0, 255], whatever the pixels' order."""
    pair = (torch.from_numpy(x.astype(np.float32)) / 255 for x in (decoded, images))
    return float(psnr(*(x.permute(0, 3, 1, 2) for x in pair)).mean())


def coded(images: np.ndarray, codec: str, level: int) -> tuple[np.ndarray, float]:
    """Images from a codec, and the mean number of bytes that its files take."""
    decoded, sizes = [], []
    options = {'method': 6} if codec == 'WEBP' else {'optimize': True}
    for image in images:
        file = io.BytesIO()
        Image.fromarray(image).save(file, codec, quality=level, **options)
        sizes.append(file.tell())
        decoded.append(np.asarray(decode_image(file.getvalue(), codec)))
    return np.stack(decoded), float(np.mean(sizes))


def patches(images: np.ndarray, side: int) -> np.ndarray:
    """Patches of images, N×L×(3·side²) in [0, 255]."""
    number, height, width, _ = images.shape
    cut = images.reshape(number, height // side, side, width // side, side, 3)
    return cut.swapaxes(2, 3).reshape(number, -1, 3 * side * side).astype(np.float64)


def projected(
    train: np.ndarray, images: np.ndarray, numbers: Sequence[int]
) -> Iterator[tuple[int, np.ndarray]]:
    """Patches back from their first principal components, for each number of them."""
    flat = train.reshape(-1, train.shape[-1])
    mean = flat.mean(axis=0)
    _, vectors = np.linalg.eigh(np.cov(flat, rowvar=False))  # the largest come last
    for number in numbers:
        basis = vectors[:, -number:]
        yield number, (images - mean) @ basis @ basis.T + mean


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    device = start(args)
    images = read(args.folder, args.every)
    columns = {
        'way': 'way',
        'setting': 'setting',
        'bytes': 'bytes an image|.0f',
        'psnr': 'PSNR (dB)|.2f',
    }
    title = f'{len(images)} images of {args.folder}'
    report = Report(title, columns, args, device)
    for codec in ('JPEG', 'WEBP'):
        for level in QUALITIES:
            decoded, size = coded(images, codec, level)
            report.add(
                way='WebP' if codec == 'WEBP' else codec,
                setting=f'quality {level}',
                bytes=size,
                psnr=quality(decoded, images),
            )
    if args.train:
        if images.shape[1] % args.patch or images.shape[2] % args.patch:
            raise ValueError(
                f'--patch {args.patch} does not divide images of {images.shape[1]}×'
                f'{images.shape[2]}; choose a side that does.'
            )
        known = patches(read(args.train, args.every), args.patch)
        given = patches(images, args.patch)
        for number, back in projected(known, given, COMPONENTS):
            report.add(
                way='linear',
                setting=f'{number} numbers a patch',
                psnr=quality(back[..., None], given[..., None]),
            )
    report.show()
    return 0


if __name__ == '__main__':
    run_main(main)
