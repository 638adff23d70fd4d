"""Which emoji resemble each other, and which are held out.

Pictures in; the two sides of the split out. What resembles each other is a family, and
stays on one side.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

SIZE = 64  # pixels
SEED = 20250401
HELD_OUT = 0.15  # of the families of a sub-group
# Of which the same flag, drawn for two countries, differs less; another emoji more.
SAME = 40.0  # dB
TONES = frozenset(f'1F3F{digit}' for digit in 'BCDEF')
# Who is shown. Man, woman and person count as one, and so do those below.
PERSONS = {
    **dict.fromkeys(('1F468', '1F469'), '1F9D1'),  # man, woman: person
    **dict.fromkeys(('1F466', '1F467'), '1F9D2'),  # boy, girl: child
    **dict.fromkeys(('1F474', '1F475'), '1F9D3'),  # old man, old woman
    **dict.fromkeys(('1F478', '1FAC5'), '1F934'),  # princess, with crown: prince
    **dict.fromkeys(('1FAC3', '1FAC4'), '1F930'),  # pregnant
    **dict.fromkeys(('1F46C', '1F46D'), '1F46B'),  # two holding hands
    '1F57A': '1F483',  # dancing
    '1F936': '1F385',  # Mrs. Claus: Santa
}
# The same as one sign and written out.
WRITTEN_OUT = {
    '1F9D1-200D-1F91D-200D-1F9D1': '1F46B',
    '1F9D1-200D-2764-200D-1F9D1': '1F491',  # couple with heart
    '1F9D1-200D-2764-200D-1F48B-200D-1F9D1': '1F48F',  # kiss
    '1F9D1-200D-1F384': '1F385',  # Mx. Claus
}
PARENTS = re.compile('(1F9D1-200D-)+1F9D2(-200D-1F9D2)?')


class Emoji(NamedTuple):
    """An emoji of the list: code points, those of its yellow one, group, sub-group."""

    code: str
    plain: str
    group: str
    subgroup: str

    @property
    def family(self) -> str:
        """Code points that all emoji have in common that resemble this one."""
        code = re.sub('-200D-(2640|2642|27A1)', '', self.plain)
        code = '-'.join(PERSONS.get(point, point) for point in code.split('-'))
        code = '1F46A' if PARENTS.fullmatch(code) else code
        return WRITTEN_OUT.get(code, code)


class Picture(NamedTuple):
    """A file of a vendor and what it shows."""

    path: Path
    vendor: str
    emoji: Emoji

    @property
    def name(self) -> str:
        """File to write."""
        return f'{self.vendor}_{self.emoji.code}.png'


def on_white(path: Path, size: int = SIZE) -> Image.Image:
    """A picture scaled to size×size and laid on white, RGB."""
    with Image.open(path, formats=['PNG']) as file:
        # Scaled with its transparency, or its outline would get a seam.
        picture = file.convert('RGBA').resize((size, size), Image.Resampling.LANCZOS)
    white = Image.new('RGBA', picture.size, 'white')
    return Image.alpha_composite(white, picture).convert('RGB')


def drawn_alike(pictures: Sequence[Picture]) -> list[tuple[int, int]]:
    """Which pictures show the same, but for less than ``SAME``.

    Returns:
        list[tuple[int, int]]: Pairs of places, the lower one first.
    """
    small = [np.asarray(on_white(picture.path, SIZE // 2)) for picture in pictures]
    pixels = np.stack(small).reshape(len(small), -1).astype(np.float32) / 255
    squares = np.square(pixels).sum(axis=1)
    apart = (squares[:, None] + squares - 2 * pixels @ pixels.T) / pixels.shape[1]
    alike = np.argwhere(np.triu(apart < 10 ** (-SAME / 10), k=1))
    return [(int(i), int(j)) for i, j in alike]


def find_families(pictures: Iterable[Picture]) -> dict[Emoji, str]:
    """The family of each emoji; those that have a picture alike are one.

    Args:
        pictures (Iterable[Picture]): All of them.

    Returns:
        dict[Emoji, str]: To an :attr:`Emoji.family`.
    """
    pictures = sorted(pictures)
    first = {picture.emoji.family: picture.emoji.family for picture in pictures}
    yellow = [p for p in pictures if p.emoji.code == p.emoji.plain]
    for pair in drawn_alike(yellow):
        kept, gone = sorted(first[yellow[i].emoji.family] for i in pair)
        first = {name: kept if home == gone else home for name, home in first.items()}
    return {picture.emoji: first[picture.emoji.family] for picture in pictures}


def held_out_families(family: Mapping[Emoji, str], seed: int = SEED) -> set[str]:
    """Families of the validation side: a share of each sub-group, at least one.

    Nothing is held out of a sub-group that has a single family.

    Args:
        family (Mapping[Emoji, str]): Of each emoji.
        seed (int): Of the permutation. Defaults to ``SEED``.

    Returns:
        set[str]: The families.
    """
    members: dict[tuple[str, str], set[str]] = defaultdict(set)
    home: dict[str, tuple[str, str]] = {}
    for one, name in sorted(family.items()):
        # A family may reach into a second sub-group; it belongs to its first.
        members[home.setdefault(name, (one.group, one.subgroup))].add(name)
    # RandomState's stream is frozen by numpy's compatibility policy.
    rng, chosen = np.random.RandomState(seed), set()
    for subgroup in sorted(members):
        families = rng.permutation(sorted(members[subgroup]))
        number = max(round(HELD_OUT * len(families)), 1) if len(families) > 1 else 0
        chosen.update(families[:number].tolist())
    return chosen


def choose_tones(emoji: Iterable[Emoji], tones: int, seed: int = SEED) -> set[str]:
    """Code points to use: all without skin tones, and some with.

    Args:
        emoji (Iterable[Emoji]): All of them.
        tones (int): Variants in skin tones to use of each emoji that has them.
        seed (int): Of the permutation. Defaults to ``SEED``.

    Returns:
        set[str]: Of :attr:`Emoji.code`.
    """
    variants: dict[str, list[str]] = defaultdict(list)
    for one in sorted(emoji):
        if one.code != one.plain:
            variants[one.plain].append(one.code)
    rng = np.random.RandomState(seed)
    chosen = {one.plain for one in emoji}
    for plain in sorted(variants):
        chosen.update(rng.permutation(variants[plain])[:tones].tolist())
    return chosen


def split(
    pictures: Iterable[Picture], tones: int = 1, seed: int = SEED
) -> dict[str, list[Picture]]:
    """Divide pictures into a training and a held-out part, family by family.

    Args:
        pictures (Iterable[Picture]): All of them.
        tones (int): Variants in skin tones of an emoji, in training. Defaults to 1.
        seed (int): Of all permutations. Defaults to ``SEED``.

    Returns:
        dict[str, list[Picture]]: ``'train'`` and ``'val'``.
    """
    pictures = list(pictures)
    family = find_families(pictures)
    held_out, used = held_out_families(family, seed), choose_tones(family, tones, seed)
    parts: dict[str, list[Picture]] = {'train': [], 'val': []}
    for picture in pictures:
        one = picture.emoji
        if family[one] in held_out:
            if one.code == one.plain:
                parts['val'].append(picture)
        elif one.code in used:
            parts['train'].append(picture)
    return parts
