"""Large crops of real photographs, with one photograph held out for looking at.

The photographs are those that scikit-image and scikit-learn ship as files. Crops of all
but the held-out one are written in the layout of a data set; the held-out photograph is
written as one PNG, so that a picture of it shows what a tokenizer has not seen. ::

    data/photographs64/train/<scene>/<photograph>_<number>.png
    data/photographs64/held_out.png

Usage: ``python tools/dataset_converters/photograph_crops.py [--hold-out chelsea]``
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

import mergevq_mm  # noqa: F401  first: makes the installed stack usable

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / 'benchmarks'))
from photographs import FILES, photograph

SEED = 20250401
SMALLEST, LARGEST = 100, 300  # sides of crops in pixels of the photograph
FLATTEST = 8.0  # grey values; a crop with less deviation shows an empty place


def crop(pixels: np.ndarray, size: int, rng: np.random.RandomState) -> Image.Image:
    """A random square of a photograph that shows something, shrunk.

    Args:
        pixels (np.ndarray): H×W×3 uint8.
        size (int): Side of the result.
        rng (RandomState): Draws side, place and reflection.

    Returns:
        PIL.Image.Image: size×size, RGB.
    """
    height, width = pixels.shape[:2]
    while True:
        side = rng.randint(SMALLEST, min(LARGEST, height, width) + 1)
        top, left = rng.randint(height - side + 1), rng.randint(width - side + 1)
        square = pixels[top : top + side, left : left + side]
        if rng.rand() < 0.5:
            square = square[:, ::-1]
        small = Image.fromarray(square).resize((size, size), Image.Resampling.BOX)
        if np.asarray(small).std() >= FLATTEST:
            return small


def write_crops(out_dir: Path, hold_out: str, size: int, number: int) -> None:
    """Write the data set.

    Args:
        out_dir (Path): Folder to make.
        hold_out (str): Photograph that is not cut, a key of ``FILES``.
        size (int): Side of the crops.
        number (int): Crops in all.

    Raises:
        ValueError: If there is no such photograph, or something is at ``out_dir``.
    """
    if hold_out not in FILES:
        raise ValueError(
            f'--hold-out {hold_out} is no photograph; choose one of {", ".join(FILES)}.'
        )
    if out_dir.exists():
        raise ValueError(f'--out-dir "{out_dir}" exists; remove it or name another.')
    names = [name for name in FILES if FILES[name][0] != FILES[hold_out][0]]
    rng = np.random.RandomState(SEED)
    for i, name in enumerate(names):
        folder = out_dir / 'train' / FILES[name][0]
        folder.mkdir(parents=True, exist_ok=True)
        pixels = photograph(name)
        for j in range(number // len(names) + (i < number % len(names))):
            crop(pixels, size, rng).save(folder / f'{name}_{j:04d}.png')
    Image.fromarray(photograph(hold_out)).save(out_dir / 'held_out.png')


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        '--out-dir',
        type=Path,
        default=Path('data/photographs64'),
        help='default: %(default)s',
    )
    parser.add_argument('--hold-out', default='chelsea', help='default: the cat')
    parser.add_argument('--size', type=int, default=64, help='default: 64 pixels')
    parser.add_argument('--number', type=int, default=4000, help='default: 4000')
    args = parser.parse_args(argv)
    try:
        write_crops(args.out_dir, args.hold_out, args.size, args.number)
    except ValueError as error:
        sys.exit(f'error: {error}')
    print(f'{args.number} crops of {args.size} px are in {args.out_dir}')


if __name__ == '__main__':
    main()
