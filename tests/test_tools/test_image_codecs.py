"""What images cost elsewhere: true sizes and errors, by the tool's own functions."""

from __future__ import annotations

import importlib
import io
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

FOLDER = Path(__file__).parents[2] / 'tools' / 'benchmarks'


@pytest.fixture
def tool(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    monkeypatch.syspath_prepend(str(FOLDER))
    yield importlib.import_module('image_codecs')


def write(folder: Path, *sizes: tuple[int, int]) -> None:
    folder.mkdir()
    for number, size in enumerate(sizes):
        pixels = np.random.randint(0, 256, (4, 4, 3), dtype=np.uint8)
        image = Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC)
        image.save(folder / f'{number}.png')


def test_rows_of_codecs_and_of_a_linear_map(
    tool: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    write(tmp_path / 'val', (16, 24), (16, 24))
    write(tmp_path / 'train', *[(16, 24)] * 40)
    folders = [str(tmp_path / 'val'), '--train', str(tmp_path / 'train')]
    assert tool.main([*folders, '--device', 'cpu']) == 0
    out = capsys.readouterr().out
    assert out.count('quality') == 10 and out.count('numbers a patch') == 4


def test_bytes_and_errors_are_those_of_the_files(tool: ModuleType) -> None:
    image = np.random.randint(0, 256, (1, 16, 16, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(image[0]).save(file, 'JPEG', quality=30, optimize=True)
    decoded, size = tool.coded(image, 'JPEG', 30)
    assert size == len(file.getvalue())
    error = ((decoded.astype(float) - image) ** 2).mean()
    assert tool.quality(decoded, image) == pytest.approx(10 * np.log10(255**2 / error))


def test_patches_come_back_from_all_their_components(tool: ModuleType) -> None:
    images = np.random.randint(0, 256, (9, 8, 12, 3), dtype=np.uint8)
    cut = tool.patches(images, 4)
    assert cut.shape == (9, 6, 48)
    assert np.array_equal(cut[2, 4].reshape(4, 4, 3), images[2, 4:, 4:8])
    errors = [((b - cut) ** 2).mean() for _, b in tool.projected(cut, cut, (3, 20, 48))]
    assert errors[0] > errors[1] > errors[2] and errors[2] < 1e-12


def test_images_of_several_sizes(tool: ModuleType, tmp_path: Path) -> None:
    write(tmp_path / 'mixed', (16, 24), (16, 16))
    with pytest.raises(ValueError, match='of the sizes 16×16, 24×16; give a folder'):
        tool.read(str(tmp_path / 'mixed'), 1)
    write(tmp_path / 'empty')
    with pytest.raises(ValueError, match='of the sizes none'):
        tool.read(str(tmp_path / 'empty'), 1)
    write(tmp_path / 'odd', (12, 16))
    flags = ['--train', str(tmp_path / 'odd'), '--device', 'cpu']
    with pytest.raises(ValueError, match='--patch 8 does not divide images of 16×12'):
        tool.main([str(tmp_path / 'odd'), *flags])
