"""Images: what is read and what is not, in folders, files and Pillow images."""

from __future__ import annotations

import io
import os
import re
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import EpsImagePlugin, Image

from mergevq_mm.utils import images
from mergevq_mm.utils.images import (
    UnreadableImageError,
    decode_image,
    find_files,
    image_endings,
    is_hidden,
    passed_over,
    read_image,
    rgb_picture,
    walk_files,
)

# Those that the installed Pillow can write; AVIF came late.
KINDS = sorted({*images.FORMATS} & {*Image.registered_extensions().values()})
REPO = Path(__file__).resolve().parents[2]
POSTSCRIPT = b"""%!PS-Adobe-3.0 EPSF-3.0
%%BoundingBox: 0 0 50 50
%%EndComments
{ } loop
showpage
"""
PIXELS = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)


def _content(picture: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


# --------------------------------------------------------------------------- formats


@pytest.mark.parametrize('kind', KINDS)
def test_each_format_is_read(kind: str) -> None:
    picture = Image.fromarray(PIXELS)
    read = decode_image(_content(picture, kind))
    assert read.mode == 'RGB' and read.size == (50, 40)
    if kind not in ('JPEG', 'WEBP', 'GIF', 'AVIF'):
        assert np.array_equal(read, PIXELS)


@pytest.mark.parametrize('ending', ['jpg', 'eps'])
def test_postscript_starts_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str
) -> None:
    def started(*args: object, **kwargs: object) -> None:
        pytest.fail('Ghostscript was started')

    monkeypatch.setattr(EpsImagePlugin, 'Ghostscript', started)
    path = tmp_path / f'cat.{ending}'
    path.write_bytes(POSTSCRIPT)
    with pytest.raises(UnreadableImageError, match='it is none of JPEG, PNG'):
        read_image(path)
    with pytest.raises(UnreadableImageError, match='EPS is none of JPEG, PNG'):
        rgb_picture(Image.open(path))


@pytest.mark.parametrize('kind', ['PCX', 'TGA', 'PDF', 'ICO', 'SGI'])
def test_other_formats_are_refused(kind: str) -> None:
    content = _content(Image.fromarray(PIXELS), kind)
    with pytest.raises(UnreadableImageError, match='the image cannot be read.*none of'):
        decode_image(content)


def test_endings_are_those_of_the_formats() -> None:
    endings = image_endings()
    for ending in 'jpg jpeg jfif mpo png webp gif bmp tif tiff ppm pgm jp2'.split():
        assert f'.{ending}' in endings
    kinds = {Image.registered_extensions()[ending] for ending in endings}
    assert kinds == {*KINDS, 'MPO'}
    assert not {'.eps', '.ps', '.pdf', '.pfm', '.wmf'} & set(endings)


def test_nothing_else_decodes_images() -> None:
    decoders = re.compile(r'Image\.open\(|\bim(read|frombytes|decode)\(|read_file\(')
    found = {
        path.relative_to(REPO).as_posix(): line.strip()
        for room in ('mergevq_mm', 'tools')
        for path in sorted((REPO / room).rglob('*.py'))
        for line in path.read_text(encoding='utf-8').splitlines()
        if decoders.search(line) and 'formats=' not in line
    }
    assert not found


# --------------------------------------------------------------------------- folders


def test_hidden() -> None:
    for path in ('._cat.jpg', '.git/a.png', 'a/.ipynb_checkpoints/b.png', '.x'):
        assert is_hidden(path) and is_hidden(Path(path))
    for path in ('cat.jpg', 'a/b..c/d.png', '../a.png', './a.png', '.'):
        assert not is_hidden(path)


def test_folder(tmp_path: Path) -> None:
    root = tmp_path / '.cache'  # the folder itself may be hidden
    for name in (
        'b.JPG', 'a/z.webp', 'a.png', 'c.jfif', 'notes.txt', 'phone.heic', 'README',
        '._b.JPG', '.ipynb_checkpoints/a.png', 'a/.DS_Store',
    ):  # fmt: skip
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    (root / 'folder.png').mkdir()
    (root / 'folder.png' / 'inner.tiff').touch()
    (root / 'gone.png').symlink_to('nowhere')
    (root / 'above').symlink_to(root)
    (root / 'linked').symlink_to(root / 'a')
    os.mkfifo(root / 'pipe.png')
    found, others = find_files(root)
    names = [path.relative_to(root).as_posix() for path in found]
    assert names == [
        'a/z.webp', 'a.png', 'b.JPG', 'c.jfif', 'folder.png/inner.tiff', 'gone.png',
        'linked/z.webp',
    ]  # fmt: skip
    assert found == sorted(found)
    assert [path.name for path in others] == ['README', 'notes.txt', 'phone.heic']
    assert sorted([*found, *others]) == list(walk_files(root))
    assert passed_over(others, root) == (
        f'"{root}" holds files that are not read (1 no ending, 1 .txt, 1 .heic): '
        'README, notes.txt, phone.heic'
    )
    assert find_files(root, ('.txt',))[0] == [root / 'notes.txt']


# ---------------------------------------------------------------------------- pixels


@pytest.mark.parametrize('orientation', range(1, 9))
def test_orientation_of_files_and_pillow_images(
    tmp_path: Path, orientation: int
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / 'phone.png'
    Image.fromarray(PIXELS).save(path, exif=exif)
    turned = {
        1: PIXELS,
        2: PIXELS[:, ::-1],
        3: PIXELS[::-1, ::-1],
        4: PIXELS[::-1],
        5: PIXELS.transpose(1, 0, 2),
        6: PIXELS[::-1].transpose(1, 0, 2),
        7: PIXELS[::-1, ::-1].transpose(1, 0, 2),
        8: PIXELS[:, ::-1].transpose(1, 0, 2),
    }[orientation]
    opened = Image.open(path)
    copied = Image.open(path).copy()
    for read in (read_image(path), rgb_picture(opened), rgb_picture(copied)):
        assert np.array_equal(read, turned)


def test_pillow_images_of_every_mode() -> None:
    grey = Image.fromarray(PIXELS[..., 0])
    clear = Image.new('RGBA', (2, 1), (9, 9, 9, 0))
    palette = Image.new('P', (2, 1), 1)
    palette.putpalette([9, 8, 7, 1, 2, 3])
    palette.info['transparency'] = 1
    sixteen = Image.fromarray(np.full((1, 2), 0x80FF, np.uint16))
    for picture, right in (
        (grey, [PIXELS[0, 0, 0]] * 3),
        (Image.new('CMYK', (2, 1), (0, 255, 255, 0)), [255, 0, 0]),
        (clear, [255] * 3),
        (clear.convert('LA'), [255] * 3),
        (clear.convert('RGBa'), [255] * 3),
        (clear.convert('LA').convert('La'), [255] * 3),
        (palette, [255] * 3),
        (sixteen, [128] * 3),
        (Image.new('1', (2, 1), 1), [255] * 3),
        (Image.new('HSV', (2, 1), (0, 255, 255)), [255, 0, 0]),
    ):
        read = rgb_picture(picture)
        assert read.mode == 'RGB'
        assert np.asarray(read)[0, 0].tolist() == right, picture.mode


def test_bad_pillow_images(tmp_path: Path) -> None:
    path = tmp_path / 'cut.png'
    path.write_bytes(_content(Image.fromarray(PIXELS), 'PNG')[:2000])
    closed = Image.open(path)
    closed.close()
    for picture, text in (
        (Image.open(path), 'truncated'),
        (Image.new('RGB', (0, 4)), '0×4 pixels, and 1 to'),
        (Image.new('F', (4, 4)), 'floating point'),
        (closed, 'the Pillow image cannot be read as an image'),
    ):
        with pytest.raises(UnreadableImageError, match=text):
            rgb_picture(picture)


def test_pixels_have_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    content = _content(Image.fromarray(PIXELS), 'PNG')
    monkeypatch.setattr(images, 'MAX_PIXELS', 1999)
    with pytest.raises(UnreadableImageError, match='50×40 pixels, and 1 to 1,999 are'):
        decode_image(content)
    monkeypatch.setattr(images, 'MAX_PIXELS', 2000)
    assert decode_image(content).size == (50, 40)
    # Pillow's own guard is one sentence, too.
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 10)
    with pytest.raises(UnreadableImageError, match='DecompressionBomb'):
        decode_image(content)


# ------------------------------------------------------------------------- addresses


class _Server(BaseHTTPRequestHandler):
    """Serves an image, too much, and something that never ends."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        if self.path == '/cat.png':
            self.wfile.write(_content(Image.fromarray(PIXELS), 'PNG'))
        for _ in range(100 if self.path in ('/slow.png', '/large.png') else 0):
            try:
                self.wfile.write(bytes(1000))
            except OSError:
                return
            time.sleep(0.05 if self.path == '/slow.png' else 0)

    def log_message(self, *args: object) -> None:
        """Nothing."""


def test_addresses_have_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    server = ThreadingHTTPServer(('127.0.0.1', 0), _Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f'http://127.0.0.1:{server.server_port}'
    try:
        assert np.array_equal(read_image(f'{address}/cat.png'), PIXELS)
        monkeypatch.setattr(images, 'MAX_BYTES', 2**15)
        with pytest.raises(UnreadableImageError, match='large.png" cannot .*more than'):
            read_image(f'{address}/large.png')
        monkeypatch.setattr(images, 'TIMEOUT', 0.5)
        start = time.monotonic()
        with pytest.raises(UnreadableImageError, match='it takes longer than'):
            read_image(f'{address}/slow.png')
        assert time.monotonic() - start < 3
    finally:
        server.shutdown()
        server.server_close()
