"""tools/benchmarks/miniature.py: its data, cells, resumption and tables."""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.config import Config
from PIL import Image

from mergevq_mm.models.target_generators.stored_teacher import write_targets

FOLDER = Path(__file__).resolve().parents[2] / 'tools' / 'benchmarks'


class Tools:
    """The scripts, imported as a run of one of them imports the others."""

    def __getattr__(self, name: str) -> ModuleType:
        return importlib.import_module(name)


@pytest.fixture(scope='module')
def tools() -> Iterator[Tools]:
    before, path = set(sys.modules), list(sys.path)
    sys.path.insert(0, str(FOLDER))
    yield Tools()
    sys.path[:] = path
    for name in set(sys.modules) - before:
        file = getattr(sys.modules[name], '__file__', None) or ''
        if file.startswith(str(FOLDER)):
            del sys.modules[name]


# --------------------------------------------------------------------- photographs


def test_no_scene_is_on_both_sides(tools: Tools) -> None:
    photographs = tools.photographs
    for fold in range(len(photographs.HELD_OUT)):
        sides = photographs.sources(fold)
        scenes = {
            split: {photographs.FILES[name][0] for name, _ in places}
            for split, places in sides.items()
        }
        assert len(scenes['val']) == 5
        assert scenes['probe'] == scenes['val']
        assert not scenes['train'] & scenes['val']
        # The two halves of a held-out photograph meet in one line and share no pixel.
        for (name, left), (other, right) in zip(sides['probe'], sides['val']):
            assert name == other and left.stop <= right.start


def test_fold_holds_crops_of_its_photographs(tools: Tools, tmp_path: Path) -> None:
    photographs = tools.photographs
    numbers = {'train': 12, 'probe': 5, 'val': 6}
    folder = photographs.write_fold(tmp_path, 1, numbers)
    for split, number in numbers.items():
        files = sorted((folder / split).rglob('*.png'))
        assert len(files) == number
        for file in files:
            name = file.name.rsplit('_', 1)[0]
            assert photographs.FILES[name][0] == file.parent.name
            pixels = np.asarray(Image.open(file))
            assert pixels.shape == (32, 32, 3)
            assert pixels.std() >= photographs.FLATTEST
    before = (folder / 'val').stat().st_mtime_ns
    assert photographs.write_fold(tmp_path, 1, numbers) == folder
    assert (folder / 'val').stat().st_mtime_ns == before
    assert not list(tmp_path.glob('.fold*'))


def test_crop_is_the_mean_of_its_square(tools: Tools) -> None:
    """A picture whose value is its column: a crop rises by its side in 32 steps."""
    ramp = np.tile(np.arange(256, dtype=np.uint8)[None, :, None], (256, 1, 3))
    for crop in tools.photographs.crops(ramp, 5, np.random.RandomState(0)):
        row = crop[0, :, 0].astype(float)
        steps = np.diff(row)
        assert (crop == crop[:1]).all()  # columns stay columns
        assert 64 / 32 - 1 <= steps.min() and steps.max() <= 200 / 32 + 1


# --------------------------------------------------------------------------- cells


@pytest.fixture(scope='module')
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Noise digits that show their class as a bright row, and made-up targets."""
    root = tmp_path_factory.mktemp('mnist5k')
    rng = np.random.default_rng(0)
    keys = []
    for split, number in (('train', 8), ('val', 3)):
        for digit in range(10):
            folder = root / split / str(digit)
            folder.mkdir(parents=True)
            for i in range(number):
                pixels = rng.integers(0, 60, (28, 28), dtype=np.uint8)
                pixels[2 * digit + 2 : 2 * digit + 6] += 180
                Image.fromarray(pixels).save(folder / f'{i}.png')
                keys.append(f'{split}/{digit}/{i}.png')
    write_targets(root / 'targets.safetensors', keys, torch.randn(len(keys), 448))
    return root


@pytest.fixture
def setting(tools: Tools, digits: Path, tmp_path: Path) -> Any:
    targets = {str(digits): digits / 'targets.safetensors'}
    return tools.miniature_cell.Setting(
        tmp_path / 'out', digits, digits, targets, epochs=2, neighbours=(3, 200)
    )


@pytest.mark.parametrize(
    'method',
    [
        'G+R',
        'MAE',
        *(
            pytest.param(method, marks=pytest.mark.slow)
            for method in ('G', 'R', 'VQ', 'G+R, no teacher')
        ),
    ],
)
def test_cell_trains_and_measures(tools: Tools, setting: Any, method: str) -> None:
    cells = tools.miniature_cell
    result = cells.run_cell(cells.Cell('digits', method, 1), setting)
    folder = cells.Cell('digits', method, 1).folder(setting.out)
    assert json.loads((folder / 'result.json').read_text()) == result
    assert list(result['knn']) == ['3']  # there are no 200 neighbours
    assert result['width'] == 128 and 0 <= result['probe'] <= 100
    assert result['seconds'] > 0
    assert not list(folder.glob('*.pth'))
    cost = result['cost']
    if method == 'MAE':
        assert 'reconstruction' not in result
        assert cost['macs'] == cost['macs_plain'] > 1
        return
    keep = str(result['keep'])
    expected = {'G': 64, 'R': 9, 'VQ': 64}.get(method, 36)
    assert result['keep'] == expected
    assert 0 < result['reconstruction'][keep]['psnr'] < 60
    learned = method != 'VQ'
    assert ('acc' in result['reconstruction'][keep]) == learned
    assert (cost['macs'] < cost['macs_plain']) == learned


def test_macs_are_those_of_the_count_by_hand(tools: Tools, setting: Any) -> None:
    from macs_by_hand import encoder_macs

    from mergevq_mm.models.utils.merge_schedule import merge_schedule
    from mergevq_mm.registry import MODELS

    cells = tools.miniature_cell
    cfg = cells.cell_config(cells.Cell('digits', 'G+R', 0), setting)
    head = {'type': 'mergevq_mm.MergeVQHead'}  # without the teacher's term
    model = MODELS.build({**cfg.model, 'target_generator': None, 'head': head})
    cost = cells.encoder_cost(model)
    arch = dict(cfg.model.backbone.arch)
    layers = arch['num_layers']
    plain = encoder_macs(arch, (32, 32), [0] * layers)
    assert cost['macs_plain'] == pytest.approx(sum(plain.values()) / 1e6)
    merged = encoder_macs(arch, (32, 32), merge_schedule(64, 36, layers, 'linear'))
    assert cost['macs'] == pytest.approx(sum(merged.values()) / 1e6, rel=0.02)


@pytest.mark.parametrize(
    'method', ['pixels', 'random', 'R, random', 'MAE, random', 'colour']
)
def test_cell_without_training(tools: Tools, setting: Any, method: str) -> None:
    cells = tools.miniature_cell
    result = cells.run_cell(cells.Cell('digits', method, 0), setting)
    assert 'seconds' not in result and 'reconstruction' not in result
    assert result['width'] == {'pixels': 1024, 'colour': 3}.get(method, 128)
    if method == 'pixels':  # the bright row tells the class
        assert result['probe'] == 100.0
    if method == 'colour':
        assert result['probe'] < 50


def test_budgets_are_equal(tools: Tools, setting: Any) -> None:
    cells = tools.miniature_cell
    assert set(tools.miniature_setting.METHODS) >= {
        'G',
        'G+R',
        'R',
        'MAE',
        'VQ',
        'random',
        'pixels',
    }
    whole = cells.Setting(**{**vars(setting), 'epochs': None})
    budgets = {}
    for method, config in cells.CONFIG_OF.items():
        if config is not None:
            cfg = cells.cell_config(cells.Cell('digits', method, 5), whole)
            loader = cfg.train_dataloader
            budgets[method] = (cfg.train_cfg.max_epochs, loader.batch_size)
            assert cfg.randomness.seed == 5
    once = budgets['MAE']
    for method, budget in budgets.items():
        passes = 4 if method.endswith(', 4x') else 1
        assert budget == (passes * once[0], once[1]), method


def test_photographs_take_a_fold_a_seed_and_no_crop(tools: Tools, digits: Path) -> None:
    cells = tools.miniature_cell
    places = {str(Path('p') / f'fold{i}'): Path(f't{i}') for i in range(3)}
    setting = cells.Setting(Path('out'), digits, Path('p'), places)
    for seed in (0, 2, 4):
        cfg = cells.cell_config(cells.Cell('photographs', 'G+R', seed), setting)
        dataset = cfg.train_dataloader.dataset
        assert dataset.data_root == str(Path('p') / f'fold{seed % 3}')
        assert 'RandomCrop' not in str(dataset.pipeline)
        assert cfg.model.target_generator.file == f't{seed % 3}'


def test_held_out_scenes_are_classes_of_their_own(tools: Tools, tmp_path: Path) -> None:
    """Not those of the training, which a held-out split would otherwise be held to."""
    black = Image.new('RGB', (32, 32))
    for split, scenes in (('train', 'ab'), ('probe', 'dc'), ('val', 'cd')):
        for scene in scenes:
            folder = tmp_path / 'fold0' / split / scene
            folder.mkdir(parents=True)
            black.save(folder / '0.png')
    setting = tools.miniature_setting.Setting(tmp_path, tmp_path, tmp_path)
    cell = tools.miniature_setting.Cell('photographs', 'G+R', 0)
    for split in ('probe', 'val'):
        images = tools.miniature_setting.image_set(cell, setting, split)
        assert list(images.CLASSES) == ['c', 'd']
        assert [int(images[i]['data_samples'].gt_label) for i in range(2)] == [0, 1]


@pytest.fixture(scope='module')
def emoji(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Flat colours of 64 pixels: the group is their red, the sub-group their green."""
    root = tmp_path_factory.mktemp('emoji')
    (root / 'meta').mkdir()
    for split, number in (('train', 5), ('val', 2)):
        lines = []
        for group in range(3):
            (root / split / f'group{group}').mkdir(parents=True)
            for part in range(2):
                for i in range(number):
                    name = f'group{group}/{part}_{i}.png'
                    colour = (120 * group, 200 * part, 10 * i)
                    Image.new('RGB', (64, 64), colour).save(root / split / name)
                    lines.append(f'{name} {2 * group + part}\n')
        text = ''.join(reversed(lines))  # by path, not by order
        (root / 'meta' / f'{split}_subgroups.txt').write_text(text)
    return root


def test_emoji_are_probed_over_groups_and_subgroups(
    tools: Tools, setting: Any, emoji: Path
) -> None:
    cells = tools.miniature_cell
    targets = {str(emoji): emoji / 'targets.safetensors'}  # pixels need none
    where = cells.Setting(**{**vars(setting), 'emoji': emoji, 'targets': targets})
    result = cells.run_cell(cells.Cell('emoji', 'pixels', 0), where)
    assert result['width'] == 3 * 32 * 32  # they are scaled to the digits' size
    assert result['probe'] == result['probe_subgroups'] == 100.0
    table = tools.miniature_table
    text = table.markdown('Emoji', {'pixels': table.summarise([result])}, 1)
    assert (
        '| probe (%) | probe, sub-groups (%) |' in text and '| 100.0 | 100.0 |' in text
    )


def test_longer_trainings_are_the_emojis_alone(tools: Tools) -> None:
    miniature = tools.miniature
    args = miniature.parse_args(['--data', 'digits', 'emoji', '--seeds', '0'])
    planned = [(cell.data, cell.method) for cell in miniature.plan(args)]
    assert len(planned) == len(set(planned))
    long = [pair for pair in planned if pair[1] in tools.miniature_setting.LONG]
    assert long == [('emoji', name) for name in tools.miniature_setting.LONG]
    assert planned[-len(long) :] == long  # what takes longest comes last
    statements = tools.miniature_table.CHAINS
    assert statements['probe: R > G+R > G, 4x'][1] == ('R, 4x', 'G+R, 4x', 'G, 4x')
    finer = statements['sub-groups, fewer tokens, better probe, 4x']
    assert finer[0] == 'probe, sub-groups (%)'


def test_r_on_convolutions_differs_from_r_in_its_encoder_alone(tools: Tools) -> None:
    folder = tools.miniature_setting.CONFIGS
    both, patches, convolutions = (
        Config.fromfile(folder / f'mergevq_{name}.py').model.to_dict()
        for name in ('g+r', 'r', 'r_convolutions')
    )
    assert convolutions == {**patches, 'backbone': both['backbone']}
    assert patches['backbone'] != both['backbone']


# -------------------------------------------------------------------------- tables


def made_up(method: str, seed: int) -> dict[str, Any]:
    """A result with known numbers."""
    probe = {'R': 90, 'G+R': 85, 'G': 80, 'VQ': 60, 'MAE': 88}.get(method, 50) + seed
    result: dict[str, Any] = {'probe': probe, 'knn': {'10': 1.0, '20': 2.0}}
    if method in ('G', 'G+R', 'R'):
        psnr = {'G': 20.0, 'G+R': 18.0, 'R': 18.5 if seed else 16.0}[method]
        at_k = {'psnr': psnr, 'psnr_predicted': psnr - 1, 'acc': 0.5}
        result.update(
            keep=9,
            reconstruction={'9': at_k, '64': {'psnr': 30.0}},
            seconds=10.0 + seed,
            cost={'macs': 1.0, 'macs_plain': 2.0, 'parameters': 3},
        )
    return result


def test_table_and_orderings(tools: Tools) -> None:
    table = tools.miniature_table
    methods = ('G', 'G+R', 'R', 'VQ', 'MAE', 'random', 'pixels')
    rows = {
        method: table.summarise([made_up(method, s) for s in (0, 1, 2)])
        for method in methods
    }
    assert rows['G']['training (s)']['mean'] == 11
    assert rows['G']['training (s)']['std'] == 1.0
    assert rows['G']['PSNR at L (dB)']['mean'] == 30
    assert rows['R']['map right (%)']['mean'] == 50
    assert rows['pixels']['PSNR at K (dB)'] is None
    assert rows['MAE']['k-NN (%)']['mean'] == 2
    text = table.markdown('Digits', rows, 3)
    line = next(line for line in text.splitlines() if line.startswith('| G+R '))
    assert '| 86.0 ± 1.0 |' in line and '| 18.00 ± 0.00 |' in line
    found = {row['statement']: row for row in table.orderings(rows)}
    probe = found['probe: R > G+R > G']
    assert (probe['means'], probe['seeds'], probe['of']) == (True, 3, 3)
    # R's mean (17.67) is below G+R's, but it is so in one seed of three only.
    recon = found['reconstruction: G > G+R > R']
    assert (recon['means'], recon['seeds']) == (True, 1)
    assert not found['G+R probes better than MAE']['means']
    assert 'fewer tokens, better probe' not in found  # those methods were not run
    source = 'R: the true map reconstructs better than the predicted'
    assert found[source]['seeds'] == 3
    # Where nothing is merged there is no map to predict.
    whole = made_up('R', 0)
    whole['reconstruction']['9']['psnr_predicted'] = 16.0
    assert table.orderings({'R': table.summarise([whole])}) == []


def test_resumes_and_collects(
    tools: Tools,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    miniature, cells = tools.miniature, tools.miniature_cell
    methods = ['G+R', 'VQ', 'G+R, K=9']
    arguments = ['--methods', *methods, '--seeds', '0', '1', '--out', str(tmp_path)]
    ran = []

    def fake(todo: list, setting: Any, jobs: int) -> list[str]:
        for cell in todo:
            ran.append((cell.data, cell.method, cell.seed))
            result = made_up(cell.method, cell.seed)
            result['version'] = setting.version_of(cell)
            with cells.file_of(cell.folder(setting.out)) as file:
                file.write_text(json.dumps(result))
        return []

    def prepare(args: argparse.Namespace) -> Any:
        return cells.Setting(args.out, tmp_path, tmp_path, version=version)

    version = ''
    monkeypatch.setattr(miniature, 'run_all', fake)
    monkeypatch.setattr(miniature, 'prepare', prepare)
    with pytest.raises(ValueError, match='no method with all of the seeds'):
        miniature.main([*arguments, '--table-only'])
    assert miniature.main([*arguments, '--data', 'digits', '--seeds', '0']) == 0
    assert ran == [('digits', method, 0) for method in methods]
    ran.clear()
    assert miniature.main(arguments) == 0
    # The table before the ablations, which the photographs are spared by default.
    assert ran == [
        ('photographs', 'G+R', 0),
        ('photographs', 'VQ', 0),
        ('digits', 'G+R', 1),
        ('digits', 'VQ', 1),
        ('photographs', 'G+R', 1),
        ('photographs', 'VQ', 1),
        ('digits', 'G+R, K=9', 1),
    ]
    ran.clear()
    assert miniature.main(arguments) == 0
    assert ran == [] and '10 of 10 cells are there already' in capsys.readouterr().out
    content = json.loads((tmp_path / 'miniature.json').read_text())
    assert content['digits']['rows']['G+R']['probe (%)']['values'] == [85, 86]
    assert '## Photographs' in (tmp_path / 'miniature.md').read_text()
    # Cells of a short run are none of a whole, nor are its tables; and the reverse.
    words = ['--methods', 'VQ', '--seeds', '2', '--data', 'digits', '--out']
    for more, number in ((['--short'], 1), ([], 1), (['--short'], 0), ([], 0)):
        ran.clear()
        assert miniature.main([*words, str(tmp_path), *more]) == 0
        assert ran == [('digits', 'VQ', 2)] * number
        folder = tmp_path / ('short' if more else '')
        content = json.loads((folder / 'miniature.json').read_text())
        assert content['short'] == bool(more) and list(content['digits']['rows'])
    # Nor are those of another version of the emoji.
    words[words.index('digits')] = 'emoji'
    for other, number in (('2', 1), ('2', 0), ('3', 1), ('3', 0)):
        ran.clear()
        version = other
        assert miniature.main([*words, str(tmp_path)]) == 0
        assert ran == [('emoji', 'VQ', 2)] * number
    words[words.index('2')] = '1'
    version = '2'
    assert miniature.main([*words, str(tmp_path)]) == 0
    words[words.index('1')] = '2'
    with pytest.raises(ValueError, match=r'of emoji of several versions \(2, 3\)'):
        words.insert(words.index('2'), '1')
        miniature.main([*words, str(tmp_path), '--table-only'])


def test_failed_cell_names_its_log(tools: Tools, setting: Any, tmp_path: Path) -> None:
    cells = tools.miniature_cell
    nowhere = cells.Setting(**{**vars(setting), 'digits': tmp_path / 'nowhere'})
    nowhere.targets[str(nowhere.digits)] = tmp_path / 'targets.safetensors'
    cell = cells.Cell('digits', 'pixels', 0)
    problem = tools.miniature.work(cell, nowhere)
    assert problem is not None and 'FileNotFoundError' in problem
    log = cell.folder(setting.out) / 'log.txt'
    assert str(log) in problem and 'nowhere' in log.read_text()
    nowhere.out.rename(tmp_path / 'kept')
    nowhere.out.touch()  # no folder can be made in a file
    assert 'cannot be made (Not a directory); give' in str(
        tools.miniature.work(cell, nowhere)
    )


def test_failures_are_told_before_the_tables(
    tools: Tools, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """Where no cell is there the tables have nothing to say, and no wrong remedy."""
    miniature = tools.miniature
    monkeypatch.setattr(
        miniature,
        'prepare',
        lambda args: tools.miniature_cell.Setting(args.out, tmp_path, tmp_path),
    )
    monkeypatch.setattr(miniature, 'run_all', lambda *_: ['a/log.txt: KeyError'])
    words = ['--data', 'digits', '--methods', 'VQ', '--out', str(tmp_path / 'out')]
    assert miniature.main(words) == 1
    assert 'failed: a/log.txt: KeyError' in capsys.readouterr().err
    assert not list((tmp_path / 'out').rglob('*.md'))


@pytest.mark.parametrize(
    'words, text',
    [
        (['--seeds', '-1'], '--seeds: -1 is below 0'),
        (['--ablations-on', 'emoji'], '--ablations-on names emoji, which --data does'),
    ],
)
def test_flags_that_make_no_sense(
    tools: Tools, words: list[str], text: str, capsys: pytest.CaptureFixture
) -> None:
    with pytest.raises(SystemExit):
        tools.miniature.parse_args(words)
    assert text in capsys.readouterr().err
    with pytest.raises(ValueError, match='make no cell on --data digits: name the'):
        tools.miniature.main(['--data', 'digits', '--methods', 'VQ, 4x'])
