"""The command line: what it writes and prints, and how it fails."""

from __future__ import annotations

import csv
import re
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny_mergevq as tiny
import torch
from mmengine.config import Config
from PIL import Image

import mergevq_mm
from mergevq_mm.apis import generation_inferencer
from mergevq_mm.cli import arguments, main
from mergevq_mm.evaluation.features import FEATURES

REPO = Path(__file__).resolve().parents[2]
COMMANDS = 'models reconstruct encode decode features generate edit export'.split()
COMMANDS += ['export-onnx', 'web']
ARCH = dict(embed_dims=32, num_layers=1, num_heads=2, head_layers=1, ffn_multiple=32)


@pytest.fixture(scope='module')
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Configs and checkpoints of a tiny tokenizer and generator, and an image."""
    root = tmp_path_factory.mktemp('models')
    named = {name: str(root / name) for name in ('t.py', 't.pth', 'g.py', 'g.pth')}
    Config(dict(model=tiny.model_cfg())).dump(named['t.py'])
    torch.manual_seed(0)
    torch.save({'state_dict': tiny.build_model().state_dict()}, named['t.pth'])
    tokenizer = dict(
        type='mergevq_mm.FrozenTokenizer',
        model=tiny.model_cfg(),
        checkpoint='nowhere.pth',
    )
    generator = dict(
        type='mergevq_mm.MergeAR',
        tokenizer=tokenizer,
        arch=ARCH,
        num_classes=12,
        keep=dict(target=9, candidates=[6, 9], family='uniform'),
    )
    Config(dict(model=generator)).dump(named['g.py'])
    state = mergevq_mm.registry.MODELS.build(generator).state_dict()
    torch.save({'state_dict': state}, named['g.pth'])
    (root / 'images').mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (8, 12, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(root / 'images' / 'cat.png')
    return {**named, 'images': str(root / 'images'), 'cat': f'{root}/images/cat.png'}


def _run(capsys: pytest.CaptureFixture, *words: str) -> str:
    main(words)
    return capsys.readouterr().out


def _fails(*words: str) -> str:
    with pytest.raises(SystemExit) as caught:
        main(words)
    return str(caught.value)


def _tokenizer(files: dict[str, str]) -> list[str]:
    return [files['t.py'], '--weights', files['t.pth'], '--device', 'cpu', '--quiet']


def test_reconstruct(
    files: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    words = [*_tokenizer(files), '--keep', 'all', '0.5', '7', '--out', str(tmp_path)]
    out = _run(capsys, 'reconstruct', *words, '--', files['images']).splitlines()
    assert [line.split(',')[1] for line in out[:3]] == [' K = 24', ' K = 12', ' K = 7']
    assert out[0].startswith('cat: 12x8, K = 24, PSNR ')
    assert f' {24 * tiny.BITS} + 0 bits, {24 * tiny.BITS / 96:.4f} a pixel' in out[0]
    assert out[3] == f'1 images, 7 files: {tmp_path}/'
    names = ['K12', 'K24', 'K7', 'merge_K12', 'merge_K24', 'merge_K7', 'strip']
    assert sorted(p.stem[4:] for p in tmp_path.iterdir()) == names
    assert Image.open(tmp_path / 'cat_K7.png').size == (12, 8)


def test_reconstruct_a_folder(
    files: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    folder, out = tmp_path / 'in', tmp_path / 'out'
    (folder / 'sub').mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in range(12):
        size = (8, 12, 3) if number % 2 else (8, 8, 3)  # 24 positions, or 16
        pixels = rng.integers(0, 256, size, dtype=np.uint8)
        Image.fromarray(pixels).save(
            folder / ('sub' if number > 5 else '') / f'{number:02}.png'
        )
    words = ['reconstruct', *_tokenizer(files), str(folder), '--out', str(out)]
    lines = _run(capsys, *words, '--keep', '0.5', '8').splitlines()
    # 12 and 8 of 24 positions; 8, which is asked for twice, of 16.
    with open(out / 'summary.csv', newline='') as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 6 * 2 + 6 and rows[-1]['source'] == f'{folder}/sub/11.png'
    asked = [[row for row in rows if row['K'] == keep] for keep in ('12', '8')]
    first = [row for row in asked[1] if row['width'] == '8'] + asked[0]
    assert len(first) == 12
    mean = {k: np.mean([float(row[k]) for row in first]) for k in list(rows[0])[5:]}
    assert lines[0] == (
        f'mean of 12: K = 8..12 (10.0 on average), PSNR {mean["psnr"]:.2f} dB, '
        f'{mean["code_bits"]:.0f} + {mean["map_bits"]:.0f} bits, {mean["bpp"]:.4f} a '
        'pixel'
    )
    every = [row for row in asked[1]]  # of both sizes
    psnr = np.mean([float(row['psnr']) for row in every])
    assert len(every) == 12
    assert lines[1].startswith(f'mean of 12: K = 8, PSNR {psnr:.2f} dB, ')
    kinds = ['K0.5', 'K8', 'merge_K0.5', 'merge_K8', 'strip']  # whatever size
    written = ['contact_sheet.png', 'summary.csv']
    assert sorted(p.name for p in out.iterdir()) == sorted(kinds + written)
    for kind in kinds[:-1]:
        assert len(list((out / kind).iterdir())) == 12
    assert (out / 'K8' / 'sub_11.png').is_file()
    number = len([path for path in out.rglob('*') if path.is_file()])
    assert lines[2:] == [f'12 images, {number} files: {out}/']
    # A folder can be done again; of a few images each has its lines, too.
    _run(capsys, *words, '--keep', '8')
    pair = [f'{folder}/00.png', f'{folder}/01.png']
    words = ['reconstruct', *_tokenizer(files), *pair, '--out', str(out)]
    lines = _run(capsys, *words, '--keep', '8').splitlines()
    assert [line[:5] for line in lines] == ['00: 8', '01: 1', 'mean ', '2 ima']


def test_images_of_another_kind(
    files: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """Noise on a model that has learnt digits; at a small K that tells nothing."""
    words = ['reconstruct', 'digits', files['images'], '--out', str(tmp_path)]
    main([*words, '--device', 'cpu', '--keep', 'all'])
    told = capsys.readouterr().err
    assert 'warning: little comes back (' in told
    assert 'this model has learnt from handwritten digits (MNIST), white on' in told
    main([*words, '--device', 'cpu', '--keep', '2'])
    assert 'little' not in capsys.readouterr().err


def test_encode_then_decode(
    files: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    model = _tokenizer(files)
    tokens, back = tmp_path / 'tokens', tmp_path / 'back'
    words = [files['cat'], '--keep', '7', '--out', str(tokens)]
    out = _run(capsys, 'encode', *model, *words).splitlines()
    size = (tokens / 'cat.mvq').stat().st_size
    assert out[0].startswith(f'{tokens}/cat.mvq: K = 7, {size} bytes, ')
    assert f'({8 * size / 96:.4f} with the header)' in out[0]
    out = _run(capsys, 'decode', *model, str(tokens), '--out', str(back))
    assert f'{back}/cat.png: 12x8' in out
    _run(capsys, 'reconstruct', *model, files['cat'], *words[1:4], str(tmp_path))
    one, other = Image.open(back / 'cat.png'), Image.open(tmp_path / 'cat_K7.png')
    assert np.array_equal(one, other)


def test_a_budget(
    files: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    model = _tokenizer(files)
    for command in ('encode', 'reconstruct'):
        words = [command, *model, files['cat'], '--out', str(tmp_path / command)]
        out = _run(capsys, *words, '--mean-tokens', '9')
        assert 6 <= int(re.search(r'cat.*: .*K = (\d+), ', out)[1]) <= 9
        assert _fails(*words, '--mean-tokens', '2') == (
            'error: mean=2 of a budget is less than the 6 tokens that an image has at '
            'least; give 6 or more.'
        )
        assert _fails(*words, '--keep', '8', '--min-psnr', '20') == (
            'error: --keep and --min-psnr contradict each other; leave one out.'
        )
    words = ['features', *model, files['cat'], '--out', str(tmp_path / 'f.npz')]
    assert 'widths cls' in _run(capsys, *words, '--min-similarity', '0.9')
    assert 'widths cls' in _run(capsys, *words, '--mean-tokens', '0.5')


def test_features(
    files: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    path = tmp_path / 'f.npz'
    words = ['--features', 'cls', 'codes', '--out', str(path)]
    out = _run(capsys, 'features', *_tokenizer(files), files['images'], *words)
    assert out == f'1 images, widths cls {tiny.DIMS}, codes {tiny.BITS}: {path}\n'
    with np.load(path) as arrays:
        assert arrays['cls'].shape == (1, tiny.DIMS)
        assert arrays['path'].tolist() == [files['cat']]


@pytest.mark.parametrize('command', ['reconstruct', 'encode', 'features', 'decode'])
def test_bad_files_of_a_folder(
    command: str, files: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    folder, out = (
        tmp_path / 'in',
        tmp_path / ('out.npz' if command == 'features' else 'o'),
    )
    folder.mkdir()
    model = _tokenizer(files)
    (folder / 'cat.png').write_bytes(Path(files['cat']).read_bytes())
    _run(capsys, 'encode', *model, str(folder / 'cat.png'), '--out', str(folder))
    for name in ('bad.png', 'bad.mvq', '._cat.png', '._cat.mvq'):
        (folder / name).write_text('nothing')
    main([command, *model, str(folder), '--out', str(out)])
    printed = capsys.readouterr()
    assert '1 images' in printed.out.splitlines()[-1] and out.exists()
    lines = [line for line in printed.err.splitlines() if line.startswith('warning: ')]
    assert f'warning: "{folder}/bad.' in printed.err
    assert lines[-1] == 'warning: 1 of 2 files could not be read, see above'
    message = _fails(command, *model, str(folder), '--out', str(out), '--strict')
    assert message.startswith('error: 1 of 2 files could not be read; the first: "')
    bad = folder / ('bad.mvq' if command == 'decode' else 'bad.png')
    assert f'error: "{bad}"' in _fails(command, *model, str(bad), '--out', str(out))
    # One of several, as of `photographs/*`, ends nothing either.
    good = folder / bad.with_stem('cat').name
    main([command, *model, str(bad), str(good), '--out', str(out)])
    printed = capsys.readouterr()
    assert '1 images' in printed.out.splitlines()[-1]
    assert 'warning: 1 of 2 files could not be read' in printed.err


def test_generate_and_export(
    files: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    model = ['--weights', files['g.pth'], '--tokenizer', files['t.pth']]
    folder, out = tmp_path / 'folder', tmp_path / 'out'
    text = _run(capsys, 'export', files['g.py'], str(folder), *model, '--device', 'cpu')
    *written, last = text.splitlines()
    paths = sorted(path for path in folder.rglob('*') if path.is_file())
    assert written == [f'{p}: {p.stat().st_size:,} bytes' for p in paths]
    assert folder / 'tokenizer' / 'model.safetensors' in paths
    assert last.startswith('MergeAR with its tokenizer, ')
    assert last.endswith(f' parameters. Try: mergevq generate {folder}')
    sampling = ['--classes', '3', '11', '--num-per-class', '2', '--seed', '5']
    sampling += ['--temperature', '0.5', '0.7', '--mode', 'full', '--device', 'cpu']
    text = _run(capsys, 'generate', str(folder), *sampling, '--out', str(out))
    names = {p.name for p in out.iterdir()}
    assert names == {f'{c}_0000{i}.png' for c in ('03', '11') for i in (0, 1)} | {
        'grid.png'
    }
    words = r'an image on average: (\d+\.\d) distinct codes \(K = 9\), \d+ passes of '
    words += r'the network, \d+\.\d of 18 slots of the cache, \d+ KiB'
    found = re.fullmatch(words, text.splitlines()[0])
    assert found and 1 <= float(found[1]) <= 16
    grid = np.asarray(Image.open(out / 'grid.png'))
    assert grid.shape == (6 + 18 + 2 * 22, 6 + 2 * 22, 3)  # doubled, with captions
    assert (grid[6:24, 6:22] < 128).any() and (grid[6:24, 28:44] < 128).any()
    drawn = np.asarray(Image.open(out / '11_00001.png'))
    assert np.array_equal(grid[46:62:2, 28:44:2], drawn)
    # From config and checkpoints the very same images come.
    again = tmp_path / 'again'
    _run(capsys, 'generate', files['g.py'], *model, *sampling, '--out', str(again))
    for name in names:
        assert (again / name).read_bytes() == (out / name).read_bytes()


def test_edit(
    files: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    model = [files['g.py'], '--weights', files['g.pth'], '--tokenizer', files['t.pth']]
    mask, out = tmp_path / 'mask.png', tmp_path / 'out'
    marks = np.zeros((8, 12), dtype=np.uint8)
    marks[4:] = 255
    Image.fromarray(marks).save(mask)
    words = ['edit', *model, files['cat'], '--mask', str(mask), '--device', 'cpu']
    words += ['--quiet', '--out', str(out)]
    text = _run(capsys, *words, '--class', '3', '--num', '2', '--temperature', '0.5')
    names = ['cat_edit0.png', 'cat_edit1.png', 'grid.png']
    assert sorted(p.name for p in out.iterdir()) == names
    assert text.splitlines() == [
        *(f'{out}/{name}' for name in names[:2]),
        f'{out}/, {out}/grid.png',
    ]
    edited = [np.asarray(Image.open(out / name)) for name in names]
    assert edited[0].shape == (8, 8, 3) and not np.array_equal(*edited[:2])
    # Doubled: the image, what is drawn anew, two variants.
    grid = edited[2]
    assert grid.shape == (6 + 18 + 22, 6 + 4 * 22, 3)
    whole = np.asarray(Image.open(files['cat']))[:, 2:10]
    assert np.array_equal(grid[24:40:2, 6:22:2], whole)
    assert np.array_equal(grid[24:40:2, 50:66:2], edited[0])
    shaded = grid[24:40:2, 28:44:2]
    assert np.array_equal(shaded[:4], whole[:4])
    assert (shaded[4:] != whole[4:]).any(axis=2).all()
    _run(capsys, *words)  # again, without a class
    before = {p.name: p.read_bytes() for p in out.iterdir()}
    marks[0, 0] = 7
    Image.fromarray(marks).save(tmp_path / 'grey.png')
    Image.fromarray(marks[:4]).save(tmp_path / 'small.png')
    (tmp_path / 'broken.png').write_text('nothing')
    for given, text in (
        ('grey.png', 'mask holds 3 values from 0 to 255; give black (0) where to keep'),
        ('small.png', 'mask holds 2 values from 0 to 7'),
        ('broken.png', f'"{tmp_path}/broken.png"'),
        ('nothing.png', f'"{tmp_path}/nothing.png" does not exist'),
    ):
        message = _fails(*words, '--mask', str(tmp_path / given))
        assert message.startswith('error: ') and text in message and '\n' not in message
    broken = ['edit', *model, str(tmp_path / 'broken.png'), '--mask', str(mask)]
    for given, text in (
        ([*words, '--class', '12'], 'labels hold the class 12; give classes from 0'),
        ([*words, '--num', '0'], 'num=0 is no whole number of at least 1'),
        ([*words, '--keep', '5'], 'keep=5 is not known to this generator'),
        ([*words, '--num-steps', '5'], 'num_steps=5 is no option of sampling here'),
        ([*broken, '--out', str(out)], f'error: "{tmp_path}/broken.png"'),
        (
            ['edit', *_tokenizer(files), files['cat'], '--mask', str(mask)],
            'MergeVQ is no generator; give a',
        ),
    ):
        message = _fails(*given)
        assert text in message and '\n' not in message
    assert {p.name: p.read_bytes() for p in out.iterdir()} == before


def test_models(capsys: pytest.CaptureFixture) -> None:
    names = ['mergevq_r', 'mergevq_r_emoji', 'mergevq_r_k64']
    assert _run(capsys, 'models', 'mergevq_r').split() == names
    line = _run(capsys, 'models', 'mergevq_r_k64', '--paths')
    assert line.split()[1].endswith('configs/mergevq_r_k64.py')
    assert _run(capsys, '--version').strip() == mergevq_mm.__version__


def test_errors_are_one_sentence(files: dict[str, str], tmp_path: Path) -> None:
    tokenizer, cat = _tokenizer(files), files['cat']
    for words, text in (
        (
            ['models', 'x*'],
            'error: no model begins with "x*"; leave it out for all.',
        ),
        (['reconstruct', 'mergevq_x', cat], 'model="mergevq_x" is not known'),
        (['reconstruct', files['t.py'], cat], 'comes without weights; give the path'),
        (['reconstruct', *tokenizer, 'dog.png'], '"dog.png" does not exist'),
        (['reconstruct', *tokenizer, ''], '"" does not exist; give a file'),
        (['reconstruct', *tokenizer, cat, '--size', '0'], 'size=0 is no multiple of'),
        (['reconstruct', files['t.py'], cat, '--weights', ''], "pretrained='' names"),
        (['encode', *tokenizer, cat, '--keep', '-1'], 'keep=-1 lies outside [1, 24]'),
        (['encode', *tokenizer, cat, '--keep', '1'], 'keep=1 cannot be reached'),
        (['decode', *tokenizer, cat], 'cat.png" is no token file'),
        (['features', *tokenizer, cat, '--out', 'f.txt'], 'f.txt'),
        (['generate', *tokenizer], 'MergeVQ is no generator'),
    ):
        message = _fails(*words)
        assert message.startswith('error: ') and text in message and '\n' not in message
    message = _fails('generate', files['g.py'], '--weights', files['g.pth'], '--quiet')
    assert 'nowhere.pth' in message and '\n' not in message


def test_unforeseen_errors_show_a_traceback_on_demand(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(*args: object, **kwargs: object) -> None:
        raise RuntimeError('two\nlines')

    monkeypatch.setattr('mergevq_mm.apis.list_models', broken)
    message = _fails('models')
    assert message == 'error: RuntimeError: two lines (--debug shows where).'
    with pytest.raises(RuntimeError, match='two'):
        main(['models', '--debug'])


@pytest.mark.parametrize('command', COMMANDS)
def test_help_explains(
    command: str, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv('COLUMNS', '80')
    with pytest.raises(SystemExit) as caught:
        main([command, '--help'])
    out = capsys.readouterr().out
    assert caught.value.code == 0 and '--debug' in out and len(out.splitlines()) > 6
    assert all(len(line) <= 80 for line in out.splitlines())


def test_choices_are_those_of_the_package() -> None:
    """They stand in the arguments again, as their modules take long to import."""
    assert arguments.FEATURES == FEATURES
    assert arguments.MODES == tuple(generation_inferencer.MODES)
    from mergevq_mm.apis.image_inputs import FITS

    assert arguments.FITS == FITS
    assert [arguments.keep_of(text) for text in ('all', '9', '0.5')] == [1.0, 9, 0.5]


def test_help_of_the_process_is_light() -> None:
    """What `import mergevq_mm` needs, and nothing more; its own work takes no time."""
    code = (
        'import resource, sys, time\n'
        'import mergevq_mm\n'
        'before = set(sys.modules)\n'
        'start = time.process_time()\n'
        'from mergevq_mm.cli.main import parse_args\n'
        'try: parse_args(["reconstruct", "--help"])\n'
        'except SystemExit: pass\n'
        'print("SECONDS", time.process_time() - start)\n'
        'print("MODULES", sorted(n.split(".")[0] for n in set(sys.modules) - before))'
    )
    done = subprocess.run(
        [sys.executable, '-c', code], capture_output=True, text=True, check=True
    )
    seconds, modules = done.stdout.splitlines()[-2:]
    assert float(seconds.split()[1]) < 0.5
    heavy = ('torchvision', 'mmpretrain', 'mmagic', 'timm', 'matplotlib', 'cv2')
    assert not any(f"'{name}'" in modules for name in heavy)


def test_as_a_process() -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, '-m', 'mergevq_mm', '--help'],
        capture_output=True,
        text=True,
        cwd=REPO,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0 and done.stderr == ''
    assert all(name in done.stdout for name in COMMANDS)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert spent < 10  # about 2 s of an idle machine; far more if a room is imported
    assert "'mergevq = mergevq_mm.cli:main'" in (REPO / 'setup.py').read_text()


def test_random_weights_of_a_folder_that_has_its_own(tmp_path: Path) -> None:
    args = ('export', str(tmp_path), str(tmp_path / 'out'), '--random-weights')
    with pytest.raises(SystemExit, match='--random-weights has no effect on the fold'):
        main(args)
