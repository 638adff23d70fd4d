"""tools/generate.py: files, numbers of images, options, processes, bad input."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_generator import CLASSES, build

REPO = Path(__file__).resolve().parents[2]
CONFIG = """
custom_imports = dict(imports=['tiny_generator'], allow_failed_imports=False)
model = dict(
    type='mergevq_mm.FakeGenerator',
    tokenizer=dict(type='mergevq_mm.FakeTokenizer'),
    num_classes=3,
    keep=dict(target=9, candidates=[4, 9, 16], family='uniform'),
    sample_cfg=dict(shift=1),
)
data_preprocessor = dict(type='mergevq_mm.GeneratorDataPreprocessor', to_rgb=False)
"""


@pytest.fixture(scope='module')
def tool() -> ModuleType:
    path = REPO / 'tools' / 'generate.py'
    spec = importlib.util.spec_from_file_location('tool_generate', path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    """Paths of a config and of a checkpoint."""
    (tmp_path / 'tiny.py').write_text(CONFIG)
    torch.save(dict(state_dict=build().state_dict()), tmp_path / 'tiny.pth')
    return [str(tmp_path / 'tiny.py'), str(tmp_path / 'tiny.pth')]


def read(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def evaluated(number: int, **request: object) -> list[np.ndarray]:
    """The first images of an evaluation, H×W×3."""
    model = build(sample_cfg=dict(shift=1)).eval()
    samples = model.val_step(dict(inputs=dict(num_batches=number, **request)))
    return [s.fake_img.flip(0).permute(1, 2, 0).byte().numpy() for s in samples]


def test_files(tool: ModuleType, files: list[str], tmp_path: Path, capsys) -> None:
    out = tmp_path / 'out'
    tool.main([*files, '--out', str(out), '--num-per-class', '2', '--npz'])
    names = sorted(str(path.relative_to(out)) for path in out.rglob('*.*'))
    pngs = [f'{label}/0000{place}.png' for label in range(3) for place in (0, 1)]
    assert names == sorted([*pngs, 'grid.png', 'samples.json', 'samples_6x8x8x3.npz'])
    expected = evaluated(6)  # class = number % 3
    for number, image in enumerate(expected):
        path = out / str(number % CLASSES) / f'{number // CLASSES:05d}.png'
        np.testing.assert_array_equal(read(path), image)
    with np.load(out / 'samples_6x8x8x3.npz') as archive:
        assert set(archive) == {'arr_0', 'labels'}
        np.testing.assert_array_equal(archive['arr_0'], np.stack(expected))
        assert archive['arr_0'].dtype == np.uint8
        assert archive['labels'].tolist() == [0, 1, 2, 0, 1, 2]
    grid = read(out / 'grid.png')  # captions of 18 pixels, gutters of 6
    np.testing.assert_array_equal(grid[24:32, 20:28], expected[1])
    np.testing.assert_array_equal(grid[38:46, 34:42], expected[5])
    made = json.loads((out / 'samples.json').read_text())
    assert made['images'] == 6 and made['seed'] == 0
    assert made['sampling'] == {'shift': 1}
    assert made['mean_of_images'] == {'distinct': 9.0}
    assert 'generate: 6/6 images, 0:00:00 left' in capsys.readouterr().out


def test_an_image_does_not_depend_on_the_others(
    tool: ModuleType, files: list[str], tmp_path: Path
) -> None:
    runs = [
        ['--classes', '2', '--num-per-class', '3'],
        ['--num-per-class', '3', '--batch-size', '2'],
        ['--classes', '0', '2', '--num-per-class', '4', '--batch-size', '5'],
    ]
    found = []
    for i, arguments in enumerate(runs):
        tool.main([*files, '--out', str(tmp_path / f'{i}'), '--seed', '7', *arguments])
        found.append([read(tmp_path / f'{i}/2/0000{k}.png') for k in range(3)])
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[0], found[2])
    np.testing.assert_array_equal(found[0], evaluated(9, seed=7)[2::3])


def test_options_of_sampling(tool: ModuleType) -> None:
    def options(*arguments: str) -> dict:
        return tool.sampling_options(
            tool.parse_args(['c', 'w', '--out', 'o', *arguments])
        )

    assert options() == {}
    assert options('--guidance', '2', '--temperature', '0', '--speculative') == dict(
        guidance=2.0, temperature=0.0, speculative=4
    )
    assert options(
        *('--guidance', '1.9', '2', '--top-k', '0', '600', '--top-p', '0.9'),
        *('--keep', '9', '--cache', 'full', '--speculative', '8'),
        *('--guidance-schedule', 'linear'),
    ) == dict(
        guidance=(1.9, 2.0),
        top_k=(0, 600),
        top_p=0.9,
        keep=9,
        cache='full',
        speculative=8,
        guidance_schedule='linear',
    )


def test_options_reach_the_model(
    tool: ModuleType, files: list[str], tmp_path: Path
) -> None:
    shift = ['--cfg-options', 'model.sample_cfg.shift=3', 'model.sample_cfg.seed=4']
    tool.main([*files, '--out', str(tmp_path / 'o'), '--keep', '4', *shift])
    made = json.loads((tmp_path / 'o/samples.json').read_text())
    assert made['mean_of_images'] == {'distinct': 4.0} and made['seed'] == 4
    image, _ = build().eval().generate([0], seed=4, shift=3)
    expected = image[0].add(1).mul(127.5).round().permute(1, 2, 0).byte()
    np.testing.assert_array_equal(read(tmp_path / 'o/0/00000.png'), expected.numpy())


@pytest.mark.slow
def test_two_processes(tool: ModuleType, files: list[str], tmp_path: Path) -> None:
    arguments = ['--num-per-class', '3', '--npz', '--device', 'cpu']
    tool.main([*files, '--out', str(tmp_path / 'one'), *arguments])
    command = [sys.executable, '-m', 'torch.distributed.run', '--standalone']
    command += ['--nproc-per-node', '2', str(REPO / 'tools/generate.py')]
    path = os.pathsep.join([str(REPO), str(REPO / 'tests')])
    subprocess.run(
        [*command, *files, '--out', str(tmp_path / 'two'), *arguments],
        check=True,
        env={**os.environ, 'PYTHONPATH': path},
    )
    pngs = sorted((tmp_path / 'one').rglob('*.png'))
    assert len(pngs) == 10
    for file in pngs:
        other = tmp_path / 'two' / file.relative_to(tmp_path / 'one')
        assert other.read_bytes() == file.read_bytes()
    name = 'samples_9x8x8x3.npz'
    one, two = (np.load(tmp_path / folder / name) for folder in ('one', 'two'))
    np.testing.assert_array_equal(one['arr_0'], two['arr_0'])


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['--classes', '1', '3'], '--classes 3 is no class .* from 0 to 2'),
        (['--classes', '1', '1'], '--classes 1 1 names a class twice'),
        (['--num-per-class', '0'], '--num-per-class 0 makes no image'),
        (['--batch-size', '0'], '--batch-size 0 draws nothing'),
        (['--keep', '5'], r'keep=5 is not known .* \[4, 9, 16\]'),
        (
            ['--cfg-options', 'model.type=mergevq_mm.FakeTokenizer'],
            'is no generator of codes',
        ),
    ],
)
def test_bad_input_is_one_sentence(
    tool: ModuleType,
    files: list[str],
    tmp_path: Path,
    arguments: list[str],
    message: str,
) -> None:
    if 'FakeTokenizer' in arguments[-1]:
        Path(files[0]).write_text("model = dict(type='mergevq_mm.FakeTokenizer')")
        arguments = []
    with pytest.raises(SystemExit, match=f'^error: .*{message}'):
        tool.main([*files, '--out', str(tmp_path / 'out'), *arguments])


def test_weights_of_another_model(
    tool: ModuleType, files: list[str], tmp_path: Path
) -> None:
    out = ['--out', str(tmp_path / 'out')]
    torch.save(dict(state_dict={'scale.weight': torch.ones(2, 2)}), files[1])
    with pytest.raises(SystemExit, match='does not fit FakeGenerator: size mismatch'):
        tool.main([*files, *out])
    torch.save(dict(state_dict={'other': torch.ones(2, 2)}), files[1])
    with pytest.raises(SystemExit, match='fills 0 of the 1 keys of FakeGenerator'):
        tool.main([*files, *out])
    with pytest.raises(SystemExit, match='error: .*none.pth.* does not exist'):
        tool.main([files[0], 'none.pth', *out])
    with pytest.raises(SystemExit, match='Config "none.py" does not exist'):
        tool.main(['none.py', files[1], *out])
