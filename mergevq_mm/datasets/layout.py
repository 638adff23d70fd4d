"""Check that a data root holds the folders that a data set expects."""

from __future__ import annotations

from mmengine import fileio


def expected_tree(data_root: str, split: str) -> str:
    """Draw the layout that :class:`ImageFolder` reads.

    Args:
        data_root (str): The root that the user gave.
        split (str): The folder of the split below it, such as ``'train'``.

    Returns:
        str: Several lines, one folder or file each.
    """
    root = data_root.rstrip('/') or '.'
    return '\n'.join(
        [
            f'{root}/',
            f'└── {split or "<split>"}/',
            '    ├── <class a>/',
            '    │   ├── <image>.jpg',
            '    │   └── …',
            '    ├── <class b>/',
            '    │   └── …',
            '    └── …',
        ]
    )


def check_variable(name: str, folder: str) -> None:
    """Refuse a folder that an environment variable names and that is none.

    Args:
        name (str): The variable.
        folder (str): What the config made of it.

    Raises:
        FileNotFoundError: If it is not set, or names no folder.
    """
    example = f'give a folder that holds images, such as {name}=photographs.'
    if not folder:
        raise FileNotFoundError(f'{name} is not set or empty; {example}')
    if not fileio.isdir(folder):
        what = 'is a file' if fileio.exists(folder) else 'does not exist'
        raise FileNotFoundError(f'{name}={folder!r} {what}; {example}')


def check_root(folder: str, data_root: str, split: str) -> None:
    """Refuse a data folder that is not there.

    Args:
        folder (str): The folder with the images: data root and prefix joined.
        data_root (str): The root that the user gave.
        split (str): The split below it, for the drawing.

    Raises:
        FileNotFoundError: If ``folder`` is not a folder.
    """
    if not fileio.isdir(folder):
        missing = (
            folder if fileio.isdir(data_root or '.') else f'{data_root!r} (data_root)'
        )
        raise FileNotFoundError(
            f'data_root={data_root!r}: there is no folder {missing}; put the images '
            'there, link the data to it or set data_root; expected:\n'
            + expected_tree(data_root, split)
        )


def check_classes(
    found: list[str],
    empty: set[str],
    num_classes: int | None,
    folder: str,
    tree: str,
) -> None:
    """Refuse missing or empty class folders.

    Args:
        found (list[str]): Names of the class folders that exist.
        empty (set[str]): Those of them without an image.
        num_classes (int, optional): The number that there must be.
        folder (str): The folder that holds them.
        tree (str): The drawing of the expected layout.

    Raises:
        FileNotFoundError: If there is no class folder at all.
        ValueError: If one is empty or their number is not ``num_classes``.
    """
    if not found:
        raise FileNotFoundError(
            f'data_root: {folder!r} holds no class folder; put each class into a '
            f'folder of its own; expected:\n{tree}'
        )
    if empty:
        names = ', '.join(repr(name) for name in sorted(empty)[:5])
        more = f' and {len(empty) - 5} more' if len(empty) > 5 else ''
        raise ValueError(
            f'data_root: the class folder {names}{more} in {folder!r} holds no image; '
            f'fill or remove it; expected:\n{tree}'
        )
    if num_classes is not None and len(found) != num_classes:
        raise ValueError(
            f'num_classes={num_classes}, but {folder!r} holds {len(found)} class '
            'folders; add the missing ones or set num_classes (None accepts any '
            f'number); expected:\n{tree}'
        )


def check_labels(labels: list[int], num_classes: int | None, ann_file: str) -> None:
    """Refuse labels of an annotation file that no class has.

    Args:
        labels (list[int]): The class ids of all samples.
        num_classes (int, optional): The number of classes; None checks the sign only.
        ann_file (str): The file that they come from.

    Raises:
        ValueError: If an id lies outside of [0, num_classes).
    """
    wrong = [i for i in labels if i < 0 or (num_classes and i >= num_classes)]
    if wrong:
        upper = 'any' if num_classes is None else num_classes - 1
        raise ValueError(
            f'ann_file={ann_file!r} holds the class id {wrong[0]}, outside of '
            f'[0, {upper}]; correct the file or set num_classes.'
        )
