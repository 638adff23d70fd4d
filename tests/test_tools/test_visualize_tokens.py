"""The commands that draw: files they write, and what they refuse."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import tiny_mergevq as tiny
import torch
from mmengine.config import Config
from PIL import Image

from mergevq_mm.apis.token_file import pack_map

FOLDER = Path(__file__).parents[2] / 'tools' / 'analysis_tools'


@pytest.fixture
def tool() -> Iterator[ModuleType]:
    sys.path.insert(0, str(FOLDER))
    yield importlib.import_module('visualize_tokens')
    sys.path.remove(str(FOLDER))


@pytest.fixture
def files(tmp_path: Path) -> tuple[str, str]:
    """Config and checkpoint of a tiny tokenizer."""
    config, checkpoint = tmp_path / 'tiny.py', tmp_path / 'tiny.pth'
    Config(dict(model=tiny.model_cfg())).dump(str(config))
    torch.save({'state_dict': tiny.build_model().state_dict()}, checkpoint)
    return str(config), str(checkpoint)


def _photograph(path: Path, size: tuple[int, int] = (40, 27)) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3))
    Image.fromarray(pixels.astype(np.uint8)).save(path)
    return path


def test_pictures_of_a_folder(
    tool: ModuleType,
    files: tuple[str, str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
) -> None:
    folder = tmp_path / 'images'
    folder.mkdir()
    for name in 'ab':
        _photograph(folder / f'{name}.png')
    out = tmp_path / 'out'
    tool.main([*files, str(folder), '--out', str(out), '--device', 'cpu'])
    names = {f'{n}_{p}.png' for n in 'ab' for p in tool.PICTURES}
    assert {path.name for path in out.iterdir()} == names
    assert '[2/2]' in capsys.readouterr().out
    for path in out.iterdir():
        assert np.asarray(Image.open(path)).std() > 10


def test_strip_is_that_of_the_model(
    tool: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny.build_model().eval()
    seen = {}

    def remember(original, made, bits) -> np.ndarray:
        seen.update(made=made, bits=bits)
        return np.zeros((1, 1, 3), np.uint8)

    room = 'mergevq_mm.visualization.reconstruction_strip'
    monkeypatch.setattr(room, remember)
    pixels = torch.rand(3, 8, 12)
    with torch.no_grad():
        tool.draw_strip(model, pixels, None)
        assert list(seen['made']) == [24, 12, 6]
        merged, quantized = model.encode(pixels[None] * 2 - 1, 6)
        image = model.decode(quantized.codes, merged.group, merged.grid)[0][0]
    expected = (image * 0.5 + 0.5).clamp(0, 1)
    torch.testing.assert_close(seen['made'][6], expected)
    map_bits = 8 * len(pack_map(merged.group[0].numpy()))
    assert seen['bits'][6] == (6 * tiny.BITS, map_bits)
    assert seen['bits'][24] == (24 * tiny.BITS, 0)


def test_halvings_stop_where_layers_cannot_merge_more(tool: ModuleType) -> None:
    assert tool.halvings(64, 3) == [64, 32, 16, 8]
    assert tool.halvings(24, 12) == [24, 12, 6, 3, 1]
    assert tool.halvings(1, 1) == [1]


def test_images_are_read_as_by_the_commands(
    tool: ModuleType,
    files: tuple[str, str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
) -> None:
    folder, out = tmp_path / 'images', tmp_path / 'images' / 'pictures'
    (folder / 'sub').mkdir(parents=True)
    _photograph(folder / 'wide.webp', (90, 40))
    _photograph(folder / 'sub' / 'wide.png', (90, 40))
    for name in ('._wide.png', 'bad.png'):
        (folder / name).write_text('no image')
    words = [*files, str(folder), '--out', str(out), '--device', 'cpu', '--size', '12']
    words += ['--pictures', 'merge']
    for _ in range(2):  # the second time there are results in it
        tool.main(words)
        assert {p.name for p in out.iterdir()} == {
            'wide_merge.png',
            'sub_wide_merge.png',
        }
        assert f'warning: "{folder}/bad.png" cannot be' in capsys.readouterr().err
    with pytest.raises(SystemExit, match='bad.png" cannot be read as an image'):
        tool.main([*files, str(folder / 'bad.png'), '--device', 'cpu'])
    with pytest.raises(SystemExit, match='size=11 is no multiple of the stride 2'):
        tool.main([*words[:-3], '11'])
    with pytest.raises(SystemExit, match='is a folder of inputs'):
        tool.main([*files, str(folder), '--out', str(folder)])


@pytest.mark.parametrize(
    ('name', 'text'),
    [
        ('nothing.png', 'nothing.png" does not exist'),
        ('empty', 'empty" has no file that ends in'),
        ('', '"" does not exist'),
    ],
)
def test_no_image(
    tool: ModuleType, files: tuple[str, str], tmp_path: Path, name: str, text: str
) -> None:
    (tmp_path / 'empty').mkdir()
    with pytest.raises(SystemExit, match=text):
        tool.main([*files, str(tmp_path / name) if name else ''])


def test_codes_and_logs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))
    plot_log = importlib.import_module('plot_log')
    log = tmp_path / 'run' / '20260101' / 'vis_data' / 'scalars.json'
    log.parent.mkdir(parents=True)
    log.write_text(json.dumps(dict(loss=1.0, iter=1, step=1)) + '\n')
    out = tmp_path / 'curves.png'
    plot_log.main([str(tmp_path / 'run'), '--out', str(out)])
    assert capsys.readouterr().out.strip() == str(out)
    assert np.asarray(Image.open(out)).std() > 5
    with pytest.raises(SystemExit, match='--keys acc begins no logged name'):
        plot_log.main([str(tmp_path / 'run'), '--keys', 'acc'])
    with pytest.raises(SystemExit, match='has no log'):
        plot_log.main([str(tmp_path)])
    codes = importlib.import_module('visualize_codes')
    with pytest.raises(SystemExit, match='error: '):
        codes.main([str(tmp_path)])


def test_usage_of_extracted_codes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mergevq_mm.datasets.codes import plan_codes
    from mergevq_mm.datasets.codes_writing import start_codes, write_shard

    header = plan_codes(
        samples=4,
        shard_size=4,
        fingerprint='ab' * 32,
        bits=6,
        split=(2, 4),
        grid=(2, 3),
        keeps=(4, 6),
        flips=2,
        classes=('a', 'b'),
        source='0' * 64,
    )
    start_codes(tmp_path / 'codes', header)
    rng, written = np.random.default_rng(0), {}
    with write_shard(tmp_path / 'codes', header, 0) as arrays:
        for name, (shape, dtype) in header.arrays(4).items():
            top = 2 if name == 'labels' else 4
            written[name] = arrays[name][:] = rng.integers(0, top, shape).astype(dtype)
    monkeypatch.syspath_prepend(str(FOLDER))
    tool = importlib.import_module('visualize_codes')
    index, bits, keep = tool.read_codes(tmp_path / 'codes', None)
    np.testing.assert_array_equal(index, written['index_K4'][:, 0])  # not mirrored
    assert (bits, keep) == (6, 4)
    out = tmp_path / 'usage.png'
    tool.main([str(tmp_path / 'codes'), '--keep', '6', '--out', str(out)])
    assert np.asarray(Image.open(out)).std() > 10


def test_cache_of_a_generator(
    tmp_path: Path, files: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    generators = Path(__file__).parents[1] / 'test_models' / 'test_generators'
    monkeypatch.syspath_prepend(str(generators))
    monkeypatch.syspath_prepend(str(FOLDER))
    tiny_mergear = importlib.import_module('tiny_mergear')
    tool = importlib.import_module('visualize_cache')
    model = dict(
        type='mergevq_mm.MergeAR',
        tokenizer=dict(type='mergevq_mm.GridOfCodes', grid=(6, 5), split=(3, 5)),
        arch=tiny_mergear.ARCH,
        num_classes=10,
        keep=dict(target=4, candidates=[4, 7]),
    )
    config, checkpoint = tmp_path / 'ar.py', tmp_path / 'ar.pth'
    Config(dict(model=model)).dump(str(config))
    state = tiny_mergear.make(tiny_mergear.MergeAR, keep=4).state_dict()
    torch.save({'state_dict': state}, checkpoint)
    out = tmp_path / 'cache.png'
    flags = ['--out', str(out), '--device', 'cpu', '--classes']
    tool.main([str(config), str(checkpoint), *flags, '1', '2'])
    assert np.asarray(Image.open(out)).std() > 10
    with pytest.raises(SystemExit, match='labels hold the class 10'):
        tool.main([str(config), str(checkpoint), *flags, '10'])
    with pytest.raises(SystemExit, match='MergeVQ has no cache'):
        tool.main([*files, '--device', 'cpu'])
