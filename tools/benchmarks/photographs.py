"""Crops of the colour photographs that scikit-image and scikit-learn ship as files.

Eleven photographs show ten scenes (the motorcycle is a stereo pair). A crop is a random
square of 64 to 200 pixels, shrunk to 32. In fold i the five scenes of ``HELD_OUT[i]``
are held out: training sees crops of the others alone. A crop's class is its scene, and
the task of a probe is to tell the five held-out scenes apart, in parts of them that it
has not seen: it learns from left halves and is tested on right halves. ::

    data/photographs/fold<i>/train/<scene>/<photograph>_<number>.png   other scenes
    data/photographs/fold<i>/probe/<scene>/<photograph>_<number>.png   left halves
    data/photographs/fold<i>/val/<scene>/<photograph>_<number>.png     right halves

Usage: ``python tools/benchmarks/photographs.py [--out-dir data/photographs]``
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

import mergevq_mm  # noqa: F401  first: makes the installed stack usable
from mergevq_mm.utils.images import read_image

# Photograph -> scene, package and file.
FILES = {
    'astronaut': ('astronaut', 'skimage', 'data/astronaut.png'),
    'chelsea': ('cat', 'skimage', 'data/chelsea.png'),
    'coffee': ('coffee', 'skimage', 'data/coffee.png'),
    'hubble': ('galaxies', 'skimage', 'data/hubble_deep_field.jpg'),
    'ihc': ('tissue', 'skimage', 'data/ihc.png'),
    'motorcycle_left': ('motorcycle', 'skimage', 'data/motorcycle_left.png'),
    'motorcycle_right': ('motorcycle', 'skimage', 'data/motorcycle_right.png'),
    'retina': ('retina', 'skimage', 'data/retina.jpg'),
    'rocket': ('rocket', 'skimage', 'data/rocket.jpg'),
    'china': ('temple', 'sklearn', 'datasets/images/china.jpg'),
    'flower': ('flower', 'sklearn', 'datasets/images/flower.jpg'),
}
HELD_OUT = (
    ('cat', 'motorcycle', 'retina', 'rocket', 'temple'),
    ('astronaut', 'coffee', 'flower', 'galaxies', 'tissue'),
    ('cat', 'coffee', 'flower', 'galaxies', 'motorcycle'),
)
NUMBERS = {'train': 4000, 'probe': 2000, 'val': 1000}
SIZE, SMALLEST, LARGEST = 32, 64, 200
FLATTEST = 8.0  # grey values; a crop with less deviation shows an empty place
SEED = 20250401


def photograph(name: str) -> np.ndarray:
    """One photograph, H×W×3 uint8.

    Args:
        name (str): A key of ``FILES``.

    Returns:
        np.ndarray: Its pixels.

    Raises:
        FileNotFoundError: If the package does not ship it.
    """
    _, package, file = FILES[name]
    found = importlib.util.find_spec(package)
    path = Path(found.origin).parent / file if found and found.origin else Path(file)
    if not path.is_file():
        raise FileNotFoundError(
            f'photograph "{name}" is not at "{path}"; install scikit-image and '
            'scikit-learn of requirements/constraints.txt, which ship it.'
        )
    return np.asarray(read_image(path))


def crops(
    pixels: np.ndarray, number: int, rng: np.random.RandomState
) -> list[np.ndarray]:
    """Random squares of a photograph that show something, shrunk.

    Args:
        pixels (np.ndarray): H×W×3 uint8.
        number (int): How many.
        rng (RandomState): Draws sides (uniform in the logarithm) and places.

    Returns:
        list[np.ndarray]: ``SIZE``×``SIZE``×3 uint8 each.
    """
    height, width = pixels.shape[:2]
    largest = min(LARGEST, height, width)
    found: list[np.ndarray] = []
    while len(found) < number:
        side = int(np.exp(rng.uniform(np.log(SMALLEST), np.log(largest))))
        top = rng.randint(height - side + 1)
        left = rng.randint(width - side + 1)
        square = Image.fromarray(pixels[top : top + side, left : left + side])
        small = np.asarray(square.resize((SIZE, SIZE), Image.Resampling.BOX))
        if small.std() >= FLATTEST:
            found.append(small)
    return found


def sources(fold: int) -> dict[str, list[tuple[str, slice]]]:
    """Which part of which photograph each split of a fold is cut from.

    Args:
        fold (int): An index into ``HELD_OUT``.

    Returns:
        dict[str, list[tuple[str, slice]]]: Split to photographs and their columns, as
        shares of the width in per cent.
    """
    held = HELD_OUT[fold]
    # One photograph a held-out scene: the other of a pair shows the same place.
    inside = {FILES[name][0]: name for name in reversed(FILES)}
    return {
        'train': [
            (name, slice(0, 100)) for name in FILES if FILES[name][0] not in held
        ],
        'probe': [(inside[scene], slice(0, 50)) for scene in held],
        'val': [(inside[scene], slice(50, 100)) for scene in held],
    }


def write_fold(out_dir: Path, fold: int, numbers: dict[str, int] | None = None) -> Path:
    """Write one fold, unless it is there.

    Args:
        out_dir (Path): Folder above the folds.
        fold (int): Which scenes are held out, an index into ``HELD_OUT``.
        numbers (dict[str, int], optional): Crops of each split. Defaults to None,
            ``NUMBERS``.

    Returns:
        Path: The fold's folder.
    """
    numbers = NUMBERS if numbers is None else numbers
    folder = out_dir / f'fold{fold}'
    if folder.is_dir():
        return folder
    part = out_dir / f'.fold{fold}.{os.getpid()}'  # a killed run leaves no half fold
    rng = np.random.RandomState(SEED + fold)
    for split, places in sources(fold).items():
        for i, (name, share) in enumerate(places):
            count = numbers[split] // len(places) + (i < numbers[split] % len(places))
            target = part / split / FILES[name][0]
            target.mkdir(parents=True, exist_ok=True)
            pixels = photograph(name)
            width = pixels.shape[1]
            columns = slice(share.start * width // 100, share.stop * width // 100)
            for j, crop in enumerate(crops(pixels[:, columns], count, rng)):
                Image.fromarray(crop).save(target / f'{name}_{j:04d}.png')
    try:
        os.rename(part, folder)
    except OSError:  # another process was first
        shutil.rmtree(part)
    return folder


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        '--out-dir', type=Path, default='data/photographs', help='default: %(default)s'
    )
    args = parser.parse_args(argv)
    for fold in range(len(HELD_OUT)):
        print(write_fold(args.out_dir, fold))


if __name__ == '__main__':
    main()
