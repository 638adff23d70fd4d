"""Lists of images: what is read, and what is named in an error."""

from __future__ import annotations

from pathlib import Path

import pytest

from mergevq_mm.datasets import ImageFolder
from mergevq_mm.datasets.image_lists import (
    labels_by_list,
    read_labelled,
    read_names,
    write_labelled,
)

LINES = {
    'blank lines': b'\na/1.png 0\n   \n\nb/2.png 1\n\n',
    'tabs': b'a/1.png\t0\nb/2.png \t 1\t\n',
    'windows': b'a/1.png 0\r\nb/2.png 1\r\n\r\n',
    'byte order mark': b'\xef\xbb\xbfa/1.png 0\nb/2.png 1',
}


@pytest.mark.parametrize('kind', LINES)
def test_all_forms_are_read_alike(kind: str, tmp_path: Path) -> None:
    (tmp_path / 'list.txt').write_bytes(LINES[kind])
    expected = [('a/1.png', 0), ('b/2.png', 1)]
    assert read_labelled(str(tmp_path / 'list.txt')) == expected
    (tmp_path / 'names.txt').write_bytes(LINES[kind].replace(b'\t', b''))
    assert len(read_names(str(tmp_path / 'names.txt'))) == 2


def test_names_survive(tmp_path: Path) -> None:
    """Spaces, digits and line separators of other scripts in a name are the name's."""
    names = ['a b/1 2.png', ' a/1.png', 'a/x\u2028y.png', 'a\tb/\x0c1.png', 'ü/#1.png']
    text = write_labelled((name, i) for i, name in enumerate(names))
    (tmp_path / 'list.txt').write_bytes(text.encode())
    found = read_labelled(str(tmp_path / 'list.txt'))
    assert found == [(name, i) for i, name in enumerate(names)]
    for name in ('a\n.png', 'a.png ', 'a.png\r'):
        with pytest.raises(ValueError, match='cannot stand in a list'):
            write_labelled([(name, 0)])


@pytest.mark.parametrize(
    'line', ['a/1.png cat', 'a/1.png', '7', 'a/1.png 1.0', 'a/1.png 1_0', 'a/1.png ²']
)
def test_a_line_that_is_not_understood(line: str, tmp_path: Path) -> None:
    """File, line and what is expected."""
    (tmp_path / 'train').mkdir()
    (tmp_path / 'meta').mkdir()
    file = tmp_path / 'meta' / 'train.txt'
    file.write_text(f'a/1.png 0\n\n{line}\n', encoding='utf-8')
    message = rf'{file}.*line 3: .*{line}.*expected is a path and a class id'
    with pytest.raises(ValueError, match=message):
        ImageFolder(str(tmp_path), split='train', pipeline=[])


def test_no_text(tmp_path: Path) -> None:
    file = tmp_path / 'list.txt'
    for content in (b'', b'\n \r\n', b'\xef\xbb\xbf'):
        file.write_bytes(content)
        with pytest.raises(ValueError, match='list.txt.* lists no image'):
            read_labelled(str(file))
    file.write_bytes('a/1.png 0\n'.encode('utf-16'))
    with pytest.raises(ValueError, match='list.txt.* UTF-8'):
        read_labelled(str(file))


def test_lists_without_classes(tmp_path: Path) -> None:
    file = tmp_path / 'list.txt'
    file.write_bytes(b'\xef\xbb\xbfa b.png\r\n\r\nc.png\r\n')
    data = ImageFolder(
        str(tmp_path), ann_file='list.txt', with_label=False, pipeline=[]
    )
    paths = [Path(data.get_data_info(i)['img_path']).name for i in range(len(data))]
    assert paths == ['a b.png', 'c.png']


def test_classes_of_a_second_list(tmp_path: Path) -> None:
    """By path, in the order that is asked for; the list may name more."""
    (tmp_path / 'list.txt').write_text('b/2.png 7\na/1.png 3\na/9.png 5\n')
    paths = [f'{tmp_path}/val/a/1.png', f'{tmp_path}/val//b/2.png']
    file = str(tmp_path / 'list.txt')
    assert labels_by_list(paths, f'{tmp_path}/val', file) == [3, 7]
    with pytest.raises(ValueError, match=r"gives no class to 'a/4.png' and 0 other"):
        labels_by_list([f'{tmp_path}/val/a/4.png'], f'{tmp_path}/val', file)
