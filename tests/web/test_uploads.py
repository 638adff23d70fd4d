"""Which files the page reads, and how."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mergevq_mm.apis.image_inputs import read_pixels
from mergevq_mm.web import uploads
from mergevq_mm.web.uploads import (
    ForeignFileError,
    is_of_page,
    make_room,
    read_upload,
    store_upload,
)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of its own for each test."""
    target = tmp_path / 'page'
    target.mkdir()
    resolved = target.resolve()
    monkeypatch.setattr(uploads, 'temporary_folder', lambda: resolved)
    return target


def _file(picture: Image.Image, kind: str = 'PNG') -> bytes:
    content = io.BytesIO()
    picture.save(content, kind)
    return content.getvalue()


def _read(content: bytes, name: str = 'cat.png') -> np.ndarray:
    return read_upload({'path': str(store_upload(content, name)), 'url': 'http://x/y'})


@pytest.mark.parametrize('mode', ['RGB', 'L', 'RGBA', 'LA', 'P', 'I;16', '1'])
def test_pixels_are_those_of_the_command_line(mode: str) -> None:
    rng = np.random.default_rng(0)
    if mode == 'I;16':
        picture = Image.fromarray(rng.integers(0, 2**16, (8, 12)).astype(np.uint16))
    else:
        pixels = rng.integers(0, 256, (8, 12, 4), dtype=np.uint8)
        picture = Image.fromarray(pixels, 'RGBA').convert(mode)
    content = _file(picture)
    pixels = _read(content)
    assert np.array_equal(pixels, read_pixels(content))
    assert pixels.shape == (8, 12, 3) and len(np.unique(pixels)) > 1  # not white alone


def test_files_of_elsewhere_are_not_touched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = store_upload(b'x', 'a.png')
    asked = []
    with monkeypatch.context() as patch:
        patch.setattr('os.path.realpath', lambda path: asked.append(path) or path)
        assert not is_of_page(str(tmp_path / 'a.png')) and not is_of_page('/dev/zero')
        assert not is_of_page(f'{own.parent}/../../a.png') and asked == []
        assert is_of_page(str(own)) and asked == [str(own)]


def test_background() -> None:
    content = _file(Image.new('RGBA', (8, 8)))
    payload = {'path': str(store_upload(content, 'a.png'))}
    assert (read_upload(payload) == 255).all()
    assert (read_upload(payload, (1, 2, 3)) == (1, 2, 3)).all()


def test_no_image() -> None:
    assert read_upload(None) is None


def test_files_of_elsewhere_are_all_alike(tmp_path: Path, folder: Path) -> None:
    """One sentence, at once, whether there is an image, a pipe or nothing."""
    secret, pipe = tmp_path / 'secret.png', tmp_path / 'pipe.png'
    secret.write_bytes(_file(Image.new('RGB', (8, 8))))
    os.mkfifo(pipe)
    os.mkfifo(folder / 'pipe.png')
    (folder / 'link.png').symlink_to(secret)
    neighbour = tmp_path / 'page-2'
    neighbour.mkdir()
    (neighbour / 'a.png').write_bytes(secret.read_bytes())
    own = store_upload(b'x', 'cat.png')
    said = set()
    for path in (
        secret,
        pipe,
        tmp_path / 'none.png',
        tmp_path,
        folder,
        own.parent,
        folder / 'none.png',
        folder / 'pipe.png',
        folder / 'link.png',
        folder / '..' / 'secret.png',
        neighbour / 'a.png',
        '/dev/zero',
        '/proc/self/environ',
        'http://127.0.0.1/a.png',
        f'file://{own}',
        os.path.relpath(secret),
        '',
        'a\0b',
        'x' * 10**5,
    ):
        with pytest.raises(ForeignFileError) as caught:
            read_upload({'path': str(path), 'meta': {'_type': 'gradio.FileData'}})
        said.add(str(caught.value))
    for payload in ({}, [], 'x', 5, {'path': None}, {'path': 5}, {'path': [str(own)]}):
        with pytest.raises(ForeignFileError) as caught:
            read_upload(payload)
        said.add(str(caught.value))
    assert said == {'This is no image of this page; upload it again.'}
    assert is_of_page(str(own)) and not is_of_page(str(secret))


@pytest.mark.parametrize(
    ('content', 'match'),
    [
        (b'', 'The image cannot be read .*empty'),
        (b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 5 5\n{} loop\n', 'none of JPEG'),
        (_file(Image.new('RGB', (8, 8)))[:45], 'The image cannot be read'),
        (_file(Image.new('1', (8193, 8192))), '8193×8192 pixels, and 1 to 67,108,864'),
        (bytes(uploads.MAX_BYTES + 1), 'more than 32 MiB; give a smaller one'),
    ],
)
def test_images_that_are_refused(content: bytes, match: str) -> None:
    with pytest.raises(ValueError, match=match) as caught:
        _read(content, 'cat.jpg')
    assert not isinstance(caught.value, ForeignFileError)


@pytest.mark.parametrize(
    ('name', 'stored'),
    [
        ('cat.JPG', 'image.jpg'),
        ('cat.html', 'image'),
        ('x.svg', 'image'),
        ('../../cat.png', 'image.png'),
        ('', 'image'),
        ('.png', 'image'),
        ('a\0.png', 'image.png'),
    ],
)
def test_names_of_visitors_are_not_kept(folder: Path, name: str, stored: str) -> None:
    path = store_upload(b'x', name)
    assert path.name == stored and path.parent.parent == folder.resolve()
    assert store_upload(b'x', name) != path


def test_the_oldest_files_make_room(folder: Path) -> None:
    paths = [store_upload(bytes(10), 'a.png') for _ in range(6)]
    for age, path in enumerate(paths):
        os.utime(path, (age, age))
    make_room(fixed={paths[0]}, limit=30)
    assert [path.exists() for path in paths] == [True, False, False, True, True, True]
    make_room(fixed={paths[0]}, limit=30)
    assert sum(path.exists() for path in paths) == 4


def test_a_folder_for_this_process_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setenv('GRADIO_TEMP_DIR', 'put back at the end')
    folder = uploads.temporary_folder.__wrapped__()
    assert folder == Path(os.environ['GRADIO_TEMP_DIR'])
    assert folder.stat().st_mode & 0o777 == 0o700
    assert folder != uploads.temporary_folder.__wrapped__()
