r"""Crops of all photographs that the installed packages ship, the cat held out.

Their colours are few: of each photograph half of the crops are shown in other colours
(the channels permuted, each brighter or darker), and grey ones are tinted. ::

    data/shipped_photographs/train/<photograph>_<number>.png   96 px
    data/shipped_photographs/val/chelsea.png                   the whole photograph

What is left out: pictures whose licence their package does not state (moon, motorcycle,
gradio's examples), and what is no photograph (a phase image, 25-pixel faces).
The licences stand in ``NOTICE``. A tokenizer is trained on the crops by ::

    python tools/dataset_converters/shipped_photographs.py
    python tools/train.py configs/pictures/mergevq_shipped_photographs.py
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

import mergevq_mm  # noqa: F401  first: makes the installed stack usable
from mergevq_mm.utils.fileio import new_folder
from mergevq_mm.utils.images import read_image

# Photograph -> package, file, share of the crops.
FILES = {
    'astronaut': ('skimage', 'data/astronaut.png', 2),
    'coffee': ('skimage', 'data/coffee.png', 2),
    'hubble': ('skimage', 'data/hubble_deep_field.jpg', 1),
    'ihc': ('skimage', 'data/ihc.png', 1),
    'retina': ('skimage', 'data/retina.jpg', 1),
    'rocket': ('skimage', 'data/rocket.jpg', 2),
    'brick': ('skimage', 'data/brick.png', 1),
    'camera': ('skimage', 'data/camera.png', 1),
    'clock': ('skimage', 'data/clock_motion.png', 1),
    'coins': ('skimage', 'data/coins.png', 1),
    'grass': ('skimage', 'data/grass.png', 1),
    'gravel': ('skimage', 'data/gravel.png', 1),
    'china': ('sklearn', 'datasets/images/china.jpg', 2),
    'flower': ('sklearn', 'datasets/images/flower.jpg', 2),
    'grace_hopper': ('matplotlib', 'mpl-data/sample_data/grace_hopper.jpg', 2),
}
HELD_OUT = ('chelsea', 'skimage', 'data/chelsea.png')
SEED = 20250401
SMALLEST = 64  # side of the least crop in pixels of the photograph
FLATTEST = 6.0  # grey values; a crop with less deviation shows an empty place


def photograph(package: str, file: str) -> np.ndarray:
    """One photograph, H×W×3 uint8.

    Args:
        package (str): Package that ships it.
        file (str): Where it lies in the package.

    Returns:
        np.ndarray: Its pixels.

    Raises:
        FileNotFoundError: If it is not there.
    """
    found = importlib.util.find_spec(package)
    path = Path(found.origin).parent / file if found and found.origin else Path(file)
    if not path.is_file():
        raise FileNotFoundError(
            f'photograph "{path}" is not there; install {package} of '
            'requirements/constraints.txt, which ships it.'
        )
    return np.asarray(read_image(path))


def other_colours(pixels: np.ndarray, rng: np.random.RandomState) -> np.ndarray:
    """Permute the channels and stretch each by a gain and a power.

    Args:
        pixels (np.ndarray): H×W×3 uint8.
        rng (RandomState): Draws order, gains and powers.

    Returns:
        np.ndarray: H×W×3 uint8.
    """
    values = pixels[:, :, rng.permutation(3)] / 255.0
    values = values ** np.exp(rng.uniform(-0.5, 0.5, 3)) * rng.uniform(0.6, 1.2, 3)
    return np.round(values.clip(0, 1) * 255).astype(np.uint8)


def crop(pixels: np.ndarray, size: int, rng: np.random.RandomState) -> Image.Image:
    """A random square of a photograph that shows something, shrunk.

    Args:
        pixels (np.ndarray): H×W×3 uint8.
        size (int): Side of the result.
        rng (RandomState): Draws side (uniform in the logarithm), place and reflection.

    Returns:
        PIL.Image.Image: size×size, RGB.
    """
    height, width = pixels.shape[:2]
    while True:
        side = int(np.exp(rng.uniform(np.log(SMALLEST), np.log(min(height, width)))))
        top, left = rng.randint(height - side + 1), rng.randint(width - side + 1)
        square = pixels[top : top + side, left : left + side]
        if rng.rand() < 0.5:
            square = square[:, ::-1]
        small = Image.fromarray(square).resize((size, size), Image.Resampling.LANCZOS)
        if np.asarray(small).std() >= FLATTEST:
            return small


def write(out_dir: Path, size: int, number: int) -> None:
    """Write crops of all photographs but one, and that one whole.

    Args:
        out_dir (Path): Folder to make.
        size (int): Side of the crops.
        number (int): Crops in all, about.

    Raises:
        ValueError: If something is at ``out_dir``.
    """
    if out_dir.exists():
        raise ValueError(f'--out-dir "{out_dir}" exists; remove it or name another.')
    rng = np.random.RandomState(SEED)
    shares = sum(share for _, _, share in FILES.values())
    with new_folder(out_dir) as part:
        (part / 'train').mkdir()
        (part / 'val').mkdir()
        for name, (package, file, share) in FILES.items():
            pixels = photograph(package, file)
            grey = (pixels[..., 0] == pixels[..., 1]).all()
            for j in range(max(1, number * share // shares)):
                image = crop(pixels, size, rng)
                if grey or j % 2:
                    image = Image.fromarray(other_colours(np.asarray(image), rng))
                image.save(part / 'train' / f'{name}_{j:04d}.png')
        name, package, file = HELD_OUT
        Image.fromarray(photograph(package, file)).save(part / 'val' / f'{name}.png')


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        '--out-dir',
        type=Path,
        default=Path('data/shipped_photographs'),
        help='default: %(default)s',
    )
    parser.add_argument('--size', type=int, default=96, help='default: 96 pixels')
    parser.add_argument('--number', type=int, default=8000, help='default: 8000')
    args = parser.parse_args(argv)
    try:
        write(args.out_dir, args.size, args.number)
    except (FileNotFoundError, ValueError) as error:
        sys.exit(f'error: {error}')
    print(f'crops of {args.size} px are in {args.out_dir}')


if __name__ == '__main__':
    main()
