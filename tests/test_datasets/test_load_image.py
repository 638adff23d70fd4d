"""LoadImage: every kind of file becomes BGR uint8, or names itself in an error."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from mmcv.transforms import LoadImageFromFile
from mmengine.registry import TRANSFORMS
from PIL import Image

from mergevq_mm.datasets import LoadImage, UnreadableImageError


def load(path: Path, **kwargs) -> np.ndarray:
    results = LoadImage(**kwargs)({'img_path': str(path)})
    assert results['img_shape'] == results['ori_shape'] == results['img'].shape[:2]
    image = results['img']
    assert image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3
    assert image.flags.c_contiguous and image.flags.writeable
    return image


def gradient(height: int = 12, width: int = 17) -> np.ndarray:
    """An RGB picture whose channels differ."""
    y, x = np.mgrid[:height, :width]
    return np.stack([10 * y, 10 * x, 5 * (x + y)], axis=-1).astype(np.uint8)


def test_rgb_png_is_exact(tmp_path: Path) -> None:
    Image.fromarray(gradient()).save(tmp_path / 'a.png')
    np.testing.assert_array_equal(load(tmp_path / 'a.png'), gradient()[..., ::-1])


def test_equals_mmcv_on_an_ordinary_jpeg(tmp_path: Path) -> None:
    path = str(tmp_path / 'a.jpg')
    Image.fromarray(np.kron(gradient(), np.ones((4, 4, 1), np.uint8))).save(path)
    theirs = LoadImageFromFile()({'img_path': path})['img']
    np.testing.assert_allclose(load(Path(path)).astype(int), theirs, atol=3)


@pytest.mark.parametrize('mode', ['L', '1', 'P'])
def test_grey_and_palettes(tmp_path: Path, mode: str) -> None:
    grey = np.array([[0, 255], [255, 0]], np.uint8)
    Image.fromarray(grey).convert(mode).save(tmp_path / 'a.png')
    expected = np.repeat(grey[..., None], 3, axis=-1)
    np.testing.assert_array_equal(load(tmp_path / 'a.png'), expected)


def test_cmyk_jpeg(tmp_path: Path) -> None:
    # No cyan, full magenta and yellow, no black: red.
    picture = Image.new('CMYK', (16, 16), (0, 255, 255, 0))
    picture.save(tmp_path / 'a.jpg', quality=100)
    image = load(tmp_path / 'a.jpg')
    np.testing.assert_allclose(image[8, 8], [0, 0, 255], atol=3)


@pytest.mark.parametrize(
    ('background', 'expected'), [((255, 255, 255), 255), ((0, 0, 0), 0)]
)
def test_transparent_pixels_show_the_background(
    tmp_path: Path, background: tuple, expected: int
) -> None:
    pixels = np.zeros((1, 3, 4), np.uint8)
    pixels[0, 0] = (10, 20, 30, 255)  # opaque
    pixels[0, 1] = (10, 20, 30, 0)  # transparent
    pixels[0, 2] = (100, 100, 100, 128)  # half
    Image.fromarray(pixels, 'RGBA').save(tmp_path / 'a.png')
    image = load(tmp_path / 'a.png', background=background)
    assert image[0, 0].tolist() == [30, 20, 10]
    assert image[0, 1].tolist() == [expected] * 3
    half = (100 * 128 + expected * 127) / 255
    np.testing.assert_allclose(image[0, 2], half, atol=1)


def test_transparent_grey_and_palette(tmp_path: Path) -> None:
    pixels = np.array([[[50, 255], [50, 0]]], np.uint8)
    Image.fromarray(pixels, 'LA').save(tmp_path / 'la.png')
    assert load(tmp_path / 'la.png')[0, :, 0].tolist() == [50, 255]
    palette = Image.fromarray(np.array([[0, 1]], np.uint8), 'P')
    palette.putpalette([9, 8, 7, 1, 2, 3])
    palette.save(tmp_path / 'p.png', transparency=1)
    image = load(tmp_path / 'p.png')
    assert image[0].tolist() == [[7, 8, 9], [255, 255, 255]]


@pytest.mark.parametrize('suffix', ['png', 'tif'])
def test_sixteen_bits_keep_their_upper_byte(tmp_path: Path, suffix: str) -> None:
    values = np.array([[0, 255, 256], [32768, 65280, 65535]], np.uint16)
    path = tmp_path / f'a.{suffix}'
    assert cv2.imwrite(str(path), values)
    expected = [[0, 0, 1], [128, 255, 255]]
    assert load(path)[..., 1].tolist() == expected
    if suffix == 'png':  # the same convention as OpenCV's
        assert cv2.imread(str(path))[..., 0].tolist() == expected


def test_one_pixel_and_unicode_name(tmp_path: Path) -> None:
    path = tmp_path / 'größe 图像 .png'
    Image.new('RGB', (1, 1), (1, 2, 3)).save(path)
    assert load(path).tolist() == [[[3, 2, 1]]]


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    picture = Image.new('RGB', (20, 10))
    picture.save(tmp_path / 'a.jpg', exif=exif)
    assert load(tmp_path / 'a.jpg').shape == (20, 10, 3)


def write_bad(folder: Path, kind: str) -> Path:
    path = folder / f'{kind}.jpg'
    if kind == 'truncated':
        whole = folder / 'whole.jpg'
        noise = np.random.RandomState(0).randint(0, 255, (64, 64, 3), np.uint8)
        Image.fromarray(noise).save(whole)
        path.write_bytes(whole.read_bytes()[:2000])
    elif kind == 'empty':
        path.touch()
    elif kind == 'text':
        path.write_text('this is no image')
    elif kind == 'float':
        path = folder / 'float.tif'
        Image.fromarray(np.ones((4, 4), np.float32)).save(path)
    elif kind == 'wide':
        path = folder / 'wide.tif'
        Image.fromarray(np.full((4, 4), 70000, np.int32)).save(path)
    return path  # 'missing' is not written


@pytest.mark.parametrize(
    'kind', ['truncated', 'empty', 'text', 'missing', 'float', 'wide']
)
def test_bad_files_name_themselves(tmp_path: Path, kind: str) -> None:
    path = write_bad(tmp_path, kind)
    with pytest.raises(UnreadableImageError) as caught:
        load(path)
    assert f'"{path}" cannot be read as an image' in str(caught.value)
    assert isinstance(caught.value, ValueError)


def test_background_is_checked_and_registry_knows_the_name() -> None:
    with pytest.raises(ValueError, match='background'):
        LoadImage(background=(0, 0, 256))
    with pytest.raises(ValueError, match='background'):
        LoadImage(background=(0, 0))
    built = TRANSFORMS.build(dict(type='mergevq_mm.LoadImage'))
    assert isinstance(built, LoadImage)
