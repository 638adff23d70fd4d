"""Which number a class has: the one of the training images, in every split.

mmpretrain numbers the class folders of each split by themselves. Where a split lacks a
folder, all later classes get another number than in training, and every metric of
labels is wrong without a word.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from mmengine import fileio

from mergevq_mm.utils.images import is_hidden

from .image_lists import read_labelled


class TrainingClasses(NamedTuple):
    """The classes of training images.

    Attributes:
        numbers (dict[str, int], optional): Class folder to number; None where a list
            has no class folders.
        count (int): Number of classes.
        source (str): Folder or list that they come from.
    """

    numbers: dict[str, int] | None
    count: int
    source: str


def class_folders(folder: str) -> list[str]:
    """Names of the class folders in a folder; hidden ones are none.

    Args:
        folder (str): Path or address.

    Returns:
        list[str]: Sorted.
    """
    names = fileio.list_dir_or_file(folder, list_file=False)
    return sorted(name for name in names if not is_hidden(name))


def listed_numbers(samples: Sequence[tuple[str, int]]) -> dict[str, int] | None:
    """Class folder to number, as the lines of a list have it.

    Args:
        samples (Sequence[tuple[str, int]]): Path and number of each image.

    Returns:
        dict[str, int], optional: None if the folders of the paths are not the classes.
    """
    names = [name.removeprefix('./') for name, _ in samples]
    pairs = {(n.split('/')[0], label) for n, (_, label) in zip(names, samples)}
    numbers = dict(pairs)
    if len(numbers) < len(pairs) or '' in numbers:  # the latter of absolute paths
        return None
    if any('/' not in name for name in names):
        return None
    return numbers


def class_names(numbers: Mapping[str, int] | None) -> tuple[str, ...] | None:
    """Names of the classes in the order of their numbers.

    Args:
        numbers (Mapping[str, int], optional): Class folder to number.

    Returns:
        tuple[str, ...], optional: None unless each number has one folder.
    """
    if numbers is None or sorted(numbers.values()) != list(range(len(numbers))):
        return None
    return tuple(sorted(numbers, key=numbers.__getitem__))


def training_classes(folder: str) -> TrainingClasses | None:
    """The classes of the training images beside a folder of another split.

    They stand in ``meta/train.txt``, where there is one, as for the training itself,
    else they are the class folders of ``train/``.

    Args:
        folder (str): The images of a split, such as ``data/imagenet/val``.

    Returns:
        TrainingClasses, optional: None beside no training images, and for themselves.
    """
    root, name = os.path.split(folder.rstrip('/'))
    if name == 'train':
        return None
    listed = fileio.join_path(root, 'meta', 'train.txt')
    if fileio.exists(listed):
        samples = read_labelled(listed)
        count = 1 + max(label for _, label in samples)
        return TrainingClasses(listed_numbers(samples), count, listed)
    train = fileio.join_path(root, 'train')
    if not fileio.isdir(train):
        return None
    names = class_folders(train)
    numbers = {name: number for number, name in enumerate(names)}
    return TrainingClasses(numbers, len(names), train) if names else None


def number_folders(
    found: Sequence[str],
    folder: str,
    training: TrainingClasses | None,
    named: Sequence[str] | None = None,
) -> dict[str, int]:
    """Numbers of the class folders of a split.

    Args:
        found (Sequence[str]): Names of the class folders.
        folder (str): What holds them, for the message.
        training (TrainingClasses, optional): Classes of the training images.
        named (Sequence[str], optional): Names of all classes. Where the folders bear
            them they have these places, whatever the training images have; else they
            are names to show. Defaults to None.

    Returns:
        dict[str, int]: Class folder to number, of all classes.

    Raises:
        ValueError: If a folder is no class of the training, or the numbers of classes
            differ.
    """
    if named is not None and set(found) <= set(named):
        return {name: number for number, name in enumerate(named)}
    remedy = 'or name all classes in their order with metainfo=dict(classes=[…]).'
    numbers = {name: number for number, name in enumerate(sorted(found))}
    if training is not None:
        numbers = training.numbers or numbers
        unknown = sorted(set(found) - set(numbers))
        if unknown:
            raise ValueError(
                f'the class folder {unknown[0]!r} in {folder!r} is no class of the '
                f'training images ("{training.source}"); add it there, remove it here, '
                f'{remedy}'
            )
        if training.numbers is None and len(found) != training.count:
            raise ValueError(
                f'{folder!r} holds {len(found)} class folders, but "{training.source}" '
                f'{training.count} classes, without the names of their folders; add '
                f'the missing folders, {remedy}'
            )
    if named is not None and len(named) <= max(numbers.values()):
        raise ValueError(
            f'metainfo names {len(named)} classes, but {folder!r} has '
            f'{max(numbers.values()) + 1}; give a name for each, in the order of their '
            'folders.'
        )
    return numbers


def check_listed(
    samples: Sequence[tuple[str, int]],
    file: str,
    training: TrainingClasses | None,
    num_classes: int | None = None,
) -> None:
    """Refuse a list whose classes have other numbers than in training.

    Args:
        samples (Sequence[tuple[str, int]]): Path and number of each image of a split.
        file (str): The list, for the message.
        training (TrainingClasses, optional): Classes of the training images.
        num_classes (int, optional): How many there are; None for as many as in
            training. Defaults to None.

    Raises:
        ValueError: If a class has another number there, or is not there.
    """
    if training is None:
        return
    own, known = listed_numbers(samples) or {}, training.numbers or {}
    names = {number: name for name, number in known.items()}
    remedy = 'write the list with the numbers of training.'
    for name in sorted(own) if own.keys() & known.keys() else ():
        if known.get(name, own[name]) != own[name] or (
            name not in known and own[name] in names
        ):
            other = names.get(own[name], 'none')
            raise ValueError(
                f'ann_file={file!r} gives the class {name!r} the number {own[name]}, '
                f'which is {other!r} in "{training.source}"; {remedy}'
            )
    largest = max(label for _, label in samples)
    if num_classes is None and largest >= training.count:
        raise ValueError(
            f'ann_file={file!r} holds the class id {largest}, but '
            f'"{training.source}" has {training.count} classes; {remedy}'
        )


def check_same_classes(
    classes: Mapping[str, Sequence[str] | None], remedy: str
) -> None:
    """Refuse data sets that are used together and number their classes differently.

    Data sets that share no name, such as folders and words for them, are not compared,
    and one may lack classes at the end.

    Args:
        classes (Mapping[str, Sequence[str] | None]): Name of a data set to the names of
            its classes; None where they are not known.
        remedy (str): What to do, a sentence.

    Raises:
        ValueError: If a number is that of different classes.
    """
    named = [
        (name, list(value)) for name, value in classes.items() if value is not None
    ]
    for (first, one), (second, other) in itertools.combinations(named, 2):
        if not set(one) & set(other):
            continue
        for number, (name, another) in enumerate(zip(one, other)):
            if name != another:
                raise ValueError(
                    f'class {number} is {str(name)!r} in {first} and {str(another)!r} '
                    f'in {second}; {remedy}'
                )
