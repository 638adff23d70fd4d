"""tools/generate.py: files, numbers of images, options, processes, bad input."""

from __future__ import annotations

import importlib.util
import json
import os
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from mmengine.config import Config
from PIL import Image
from ready_processes import run_tool
from tiny_generator import CLASSES, build
from tiny_mergevq import model_cfg
from torch import nn

from mergevq_mm.apis import GenerationInferencer
from mergevq_mm.models.generators import MergeAR, RandAR, decoding_step
from mergevq_mm.models.generators.code_generator import CodeGenerator
from mergevq_mm.models.generators.generation_request import seeds_of
from mergevq_mm.registry import MODELS

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
        *('--guidance-schedule', 'linear', '--num-steps', '6', '--step', 'compile'),
        '--no-restrict',
    ) == dict(
        guidance=(1.9, 2.0),
        top_k=(0, 600),
        top_p=0.9,
        keep=9,
        cache='full',
        speculative=8,
        guidance_schedule='linear',
        num_steps=6,
        step='compile',
        restrict=False,
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


# -------------------------------------------------------------------- real generators


def real_generator(folder: Path, kind: str) -> tuple[CodeGenerator, list[str]]:
    """A generator of a few thousand weights with a real tokenizer, and its files."""
    cfg = dict(
        type=f'mergevq_mm.{kind}',
        tokenizer=dict(
            type='mergevq_mm.FrozenTokenizer', model=model_cfg(), random_init=True
        ),
        arch=dict(
            embed_dims=32, num_layers=2, num_heads=4, ffn_multiple=32, head_layers=1
        ),
        num_classes=4,
        keep=dict(target=6, candidates=[6, 9]),
    )
    model = MODELS.build(cfg).eval()
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3, generator=generator)
    model.tokenizer.init_weights()
    files = [str(folder / f'{kind}.py'), str(folder / f'{kind}.pth')]
    Config(dict(model=cfg)).dump(files[0])
    torch.save(dict(state_dict=model.state_dict()), files[1])
    return model, files


FLAGS = {
    'MergeAR': [
        (['--guidance', '1.5', '3'], dict(guidance=(1.5, 3.0))),
        (['--temperature', '0'], dict(temperature=0.0)),
        (['--temperature', '0', '2'], dict(temperature=(0.0, 2.0))),
        (['--top-k', '1', '2'], dict(top_k=(1, 2))),
        (['--top-p', '0.3'], dict(top_p=0.3)),
        (['--keep', '9', '--restrict'], dict(keep=9, restrict=True)),
        (['--restrict'], dict(restrict=True)),
        (['--cache', 'full'], dict(cache='full')),
        (['--speculative', '2'], dict(speculative=2)),
        (['--speculative'], dict(speculative=4)),
        (['--step', 'compile', '--cache', 'full'], dict(step='compile', cache='full')),
        (
            ['--guidance', '4', '--guidance-schedule', 'linear'],
            dict(guidance=4.0, guidance_schedule='linear'),
        ),
    ],
    'RandAR': [
        (['--num-steps', '3'], dict(num_steps=3)),
        (
            ['--keep', '9', '--num-steps', '3', '--step-schedule', 'arccos'],
            dict(keep=9, num_steps=3, step_schedule='arccos'),
        ),
        (['--keep', '9', '--guidance', '3'], dict(keep=9, guidance=3.0)),
        (['--temperature', '0', '--top-p', '0.9'], dict(temperature=0.0, top_p=0.9)),
    ],
}


@pytest.mark.timeout(900)
@pytest.mark.parametrize('kind', ['MergeAR', 'RandAR'])
def test_flags_of_real_generators(
    tool: ModuleType, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoding_step, 'BACKEND', 'eager')
    model, files = real_generator(tmp_path, kind)
    assert isinstance(model, {'MergeAR': MergeAR, 'RandAR': RandAR}[kind])
    labels, seeds = [0, 2], seeds_of(5, [0, 2])
    seen: list[bytes] = []
    slots: dict[str, int] = {}
    for i, (flags, options) in enumerate([([], {}), *FLAGS[kind]]):
        out = tmp_path / str(i)
        common = ['--classes', '0', '2', '--seed', '5', '--device', 'cpu']
        tool.main([*files, '--out', str(out), *common, *flags])
        images, drawn = model.generate(labels, seeds=seeds, **options)
        pixels = images.add(1).mul(127.5).round().permute(0, 2, 3, 1).byte().numpy()
        for label, image in zip(labels, pixels, strict=True):
            np.testing.assert_array_equal(read(out / f'{label}/00000.png'), image)
        made = json.loads((out / 'samples.json').read_text())
        # As JSON has it: lists for tuples.
        assert made['sampling'] == json.loads(json.dumps(options))
        for name, values in drawn.stats.items():
            mean = values.float().mean().item()
            assert made['mean_of_images'][name] == pytest.approx(mean), name
        codes = drawn.index.numpy().tobytes()
        if options and set(options) <= {'cache', 'speculative', 'step'}:
            assert codes == seen[0]  # another way to the same codes
        else:
            assert codes not in seen
        seen.append(codes)
        slots[str(flags)] = drawn.stats['cache_slots'][0].item()
    if kind == 'MergeAR':  # drafts need slots of their own
        assert slots["['--speculative', '2']"] == slots['[]'] + 2
        assert slots["['--speculative']"] == slots['[]'] + 4


@pytest.mark.parametrize('kind', ['MergeAR', 'RandAR'])
def test_half_precision(tool: ModuleType, tmp_path: Path, kind: str) -> None:
    model, files = real_generator(tmp_path, kind)
    common = ['--classes', '2', '--device', 'cpu', '--seed', '5']
    tool.main([*files, '--out', str(tmp_path / 'half'), '--dtype', 'bf16', *common])
    assert json.loads((tmp_path / 'half/samples.json').read_text())['dtype'] == 'bf16'
    infer = GenerationInferencer(model, dtype='bf16', device='cpu')
    assert {p.dtype for p in model.transformer.parameters()} == {torch.bfloat16}
    assert model.generate([2], seed=5)[0].dtype == torch.float32  # the tokenizer's
    (result,) = infer([2], seed=5)
    np.testing.assert_array_equal(read(tmp_path / 'half/2/00000.png'), result['image'])
    with pytest.raises(ValueError, match="dtype='fp8' is not known; choose one of"):
        GenerationInferencer(model, dtype='fp8', device='cpu')


def test_a_file_that_cannot_be_written_ends_the_run(
    tool: ModuleType, files: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Although it is written by a thread."""
    from mergevq_mm import visualization

    def full(path: Path, image: np.ndarray) -> None:
        if path.parent.name == '1':
            raise ValueError('the disk is full; free some space.')

    monkeypatch.setattr(visualization, 'save_png', full)
    with pytest.raises(SystemExit, match='^error: the disk is full; free some space'):
        tool.main([*files, '--out', str(tmp_path / 'out'), '--batch-size', '1'])
    assert not (tmp_path / 'out' / 'samples.json').exists()


@pytest.mark.parametrize(
    ('kind', 'flags', 'message'),
    [
        ('MergeAR', ['--speculative', '-1'], 'speculative=-1 is no whole number'),
        ('MergeAR', ['--guidance', '1', '2', '3'], r'guidance=\(.*\) is for 3 parts'),
        ('MergeAR', ['--guidance', 'inf'], 'guidance=inf is out of range; give finite'),
        ('MergeAR', ['--top-p', 'nan'], 'top_p=nan is out of range'),
        ('MergeAR', ['--temperature', '-1'], 'temperature=-1.0 is out of range'),
        ('MergeAR', ['--top-k', '-3'], 'top_k=-3 is out of range'),
        ('MergeAR', ['--num-steps', '4'], 'num_steps=4 is no option of sampling here'),
        ('MergeAR', ['--step', 'graph'], "step='graph' captures a CUDA graph, but"),
        (
            'MergeAR',
            ['--cfg-options', 'model.sequence=distinct', '--restrict'],
            "restrict=True has no meaning for sequence='distinct'",
        ),
        (
            'MergeAR',
            ['--cfg-options', 'model.sample_cfg.top_n=3'],
            'top_n=3 is no option of sampling here',
        ),
        ('RandAR', ['--restrict'], 'restrict=True is an option of raster generation'),
        ('RandAR', ['--num-steps', '0'], 'num_steps=0 is no whole number of at least'),
    ],
)
def test_bad_flags_of_real_generators(
    tool: ModuleType, tmp_path: Path, kind: str, flags: list[str], message: str
) -> None:
    _, files = real_generator(tmp_path, kind)
    common = ['--out', str(tmp_path / 'out'), '--device', 'cpu']
    with pytest.raises(SystemExit, match=f'^error: {message}') as error:
        tool.main([*files, *common, *flags])
    assert '\n' not in str(error.value)
    assert not list((tmp_path / 'out').rglob('*.png'))


@pytest.mark.slow
def test_two_processes(tool: ModuleType, files: list[str], tmp_path: Path) -> None:
    arguments = ['--num-per-class', '3', '--npz', '--device', 'cpu']
    tool.main([*files, '--out', str(tmp_path / 'one'), *arguments])
    path = os.pathsep.join([str(REPO), str(REPO / 'tests')])
    done = run_tool(
        *(REPO / 'tools/generate.py', *files, '--out', tmp_path / 'two', *arguments),
        cwd=REPO,
        env={**os.environ, 'PYTHONPATH': path},
        ranks=2,
    )
    assert done.returncode == 0, done.stderr
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
