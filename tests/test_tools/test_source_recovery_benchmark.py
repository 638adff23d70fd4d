"""The measurement of source recovery, and the training of a new neck."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
from mmengine.config import Config
from tiny_mergevq import build_model, run_cfg, write_images
from torch.nn.functional import interpolate

from mergevq_mm.models.utils.possible_maps import best_possible_map
from mergevq_mm.registry import MODELS
from mergevq_mm.utils.checkpoint import load_pretrained
from mergevq_mm.utils.config import load_config

FOLDER = Path(__file__).parents[2] / 'tools' / 'benchmarks'


@pytest.fixture(scope='module')
def tool() -> Iterator[ModuleType]:
    before = set(sys.modules)
    sys.path.insert(0, str(FOLDER))
    yield importlib.import_module('source_recovery')
    sys.path.remove(str(FOLDER))
    for script in FOLDER.glob('*.py'):  # `common` is nobody's name but here
        if script.stem not in before:
            sys.modules.pop(script.stem, None)


@pytest.fixture(scope='module')
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Images, a config and a checkpoint of a tiny tokenizer."""
    folder = tmp_path_factory.mktemp('recovery')
    for split in ('train', 'val'):
        write_images(folder / 'images', split=split, per_class=8)
    cfg = run_cfg(folder / 'images', folder / 'run')
    cfg.dump(folder / 'config.py')
    torch.manual_seed(0)
    state = build_model().state_dict()
    torch.save({'state_dict': state, 'meta': {}}, folder / 'weights.pth')
    return {name: str(folder / name) for name in ('config.py', 'weights.pth', 'out')}


def config_of(files: dict[str, str]) -> Config:
    return load_config(files['config.py'])


def run(
    tool: ModuleType, files: dict[str, str], *flags: str
) -> dict[tuple[int, str], dict]:
    """The rows of the table by K and map."""
    out = Path(files['out']).with_suffix('.json')
    paths = [files['config.py'], files['weights.pth']]
    flags = (*flags, '--device', 'cpu', '--batch-size', '4')
    assert tool.main([*paths, '--json', str(out), *flags]) == 0
    rows = json.loads(out.read_text())['rows']
    return {(row['keep'], row['map']): row for row in rows}


def test_measures_all_maps(tool: ModuleType, files: dict[str, str]) -> None:
    rows = run(tool, files)
    kinds = ['true', 'likeliest', 'possible', 'possible, first places']
    assert list(rows) == [(keep, kind) for keep in (9, 16) for kind in kinds]
    for (keep, kind), row in rows.items():
        whole = kind == 'true' or (keep == 16 and kind.startswith('possible'))
        assert (row['right'] == 100) == whole
        assert row['right_codes'] >= row['right'] and 'named' not in row
        if whole:
            assert row['psnr'] == rows[keep, 'true']['psnr']
    model = build_model()
    model.load_state_dict(torch.load(files['weights.pth'])['state_dict'])
    right = []
    args = tool.parse_args(['c', 'w', '--batch-size', '4'])
    load = tool.Loader(config_of(files), args, torch.device('cpu'))
    with torch.no_grad():
        for images in load('val'):
            merged, quantized = model.eval().encode(images.pixels, 9)
            scores = model.neck.scores(quantized.codes, merged.grid)
            right.append(best_possible_map(scores) == merged.group)
    share = 100 * float(torch.cat(right).double().mean())
    assert rows[9, 'possible']['right'] == pytest.approx(share)


def test_trains_a_neck_and_writes_it_beside_the_rest(
    tool: ModuleType, files: dict[str, str]
) -> None:
    flags = ['model.neck.code_layers=1', 'model.neck.num_classes=2']
    flags = ['--cfg-options', *flags, 'model.neck.first_places=True', '--keep', '9']
    rows = run(tool, files, '--epochs', '15', '--out', files['out'], *flags)
    names = ('true', 'likeliest', 'possible', 'possible, first places')
    names = (*names, 'possible, class', 'possible, both')
    assert list(rows) == [(9, name) for name in names]
    before = torch.load(files['weights.pth'])['state_dict']
    after = torch.load(files['out'])['state_dict']
    changed = {
        name
        for name, value in after.items()
        if name not in before or not torch.equal(value, before[name])
    }
    assert all(name.startswith('neck.') for name in changed)
    assert {'neck.class_embedding.weight', 'neck.first.weight'} <= changed
    # What was written is what was measured.
    files = {**files, 'weights.pth': files['out'], 'out': files['out'] + '_again'}
    assert run(tool, files, *flags) == rows


@pytest.mark.parametrize('wrapper', ['plain', 'wrapped'])
def test_the_new_neck_is_found_whatever_the_file_was(
    tool: ModuleType, files: dict[str, str], tmp_path: Path, wrapper: str
) -> None:
    """Weights without a container, and under the names of a distributed wrapper."""
    state = torch.load(files['weights.pth'])['state_dict']
    if wrapper == 'wrapped':
        state = {'state_dict': {f'module.{k}': v for k, v in state.items()}}
    torch.save(state, tmp_path / 'weights.pth')
    files = {**files, 'weights.pth': str(tmp_path / 'weights.pth')}
    out = str(tmp_path / 'deep' / 'new.pth')
    run(tool, files, '--keep', '9', '--epochs', '0.1', '--out', out)
    model, before = build_model(), torch.load(tmp_path / 'weights.pth')
    load_pretrained(model, before, min_matched=1.0)
    old = model.neck.key.weight.clone()
    report = load_pretrained(model, out, min_matched=1.0)
    assert not report.unexpected and not torch.equal(model.neck.key.weight, old)


def test_the_judge_names_what_it_sees(
    tool: ModuleType, files: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def names_all_1(images: torch.Tensor) -> torch.Tensor:
        assert images.min() >= -1 and images.max() <= 1
        return torch.ones(len(images))

    monkeypatch.setattr(tool, 'read_judge', lambda *args: names_all_1)
    rows = run(tool, files, '--judge', 'a', 'b', '--keep', '9')
    assert list(rows)[0] == (9, 'the image itself') and len(rows) == 5
    assert {row['named'] for row in rows.values()} == {50.0}
    assert {row['named_classes'] for row in rows.values()} == {50.0}


def test_a_large_class_counts_as_a_small_one(tool: ModuleType) -> None:
    hits = torch.tensor([True, True, True, False, False])
    labels = torch.tensor([0, 0, 0, 0, 7])
    found = tool.named_rightly(hits, labels)
    assert found == {'named': pytest.approx(60), 'named_classes': pytest.approx(37.5)}


def test_the_judge_sees_images_of_its_size_and_colours(
    tool: ModuleType, tmp_path: Path
) -> None:
    config = str(FOLDER.parents[1] / 'configs/quickstart/lenet5_mnist5k.py')
    cfg = load_config(config)
    classifier = MODELS.build(cfg.model)
    torch.save(classifier.state_dict(), tmp_path / 'judge.pth')
    judge = tool.read_judge(
        config, str(tmp_path / 'judge.pth'), 32, torch.device('cpu')
    )
    images = torch.rand(64, 3, 48, 48) * 2 - 1
    larger = interpolate(images, (32, 32), mode='bicubic', antialias=True)
    grey = larger.mean(1, keepdim=True) * 127.5 + 127.5
    (mean,), (std,) = cfg.data_preprocessor.mean, cfg.data_preprocessor.std
    expected = classifier.eval()((grey - mean) / std).argmax(1)
    assert torch.equal(judge(images), expected) and len(expected.unique()) > 1


@pytest.mark.parametrize(
    ('flags', 'message'),
    [
        (['--keep', '99'], r'keep=99 lies outside'),
        (
            ['--cfg-options', 'model.neck.code_layers=1'],
            'fills .* of the .* keys of SourceRecovery',
        ),
    ],
)
def test_refuses(
    tool: ModuleType, files: dict[str, str], flags: list[str], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        run(tool, files, *flags)


def test_refuses_a_neck_that_predicts_nothing(
    tool: ModuleType, files: dict[str, str], tmp_path: Path
) -> None:
    cfg = config_of(files)
    cfg.model.neck = dict(type='mergevq_mm.GroupMapRecovery')
    cfg.dump(tmp_path / 'config.py')
    with pytest.raises(ValueError, match='predicts no source map; set'):
        run(tool, {**files, 'config.py': str(tmp_path / 'config.py')})


def test_refuses_flags_before_it_works(
    tool: ModuleType,
    files: dict[str, str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
) -> None:
    for flags, message in (
        (['--out', files['out']], 'give --epochs'),
        (['--epochs', '-1'], '--epochs -1 is no length: give at least 0'),
        (['--epochs', 'nan'], '--epochs nan is no length'),
        (['--epochs', '1', '--out', str(tmp_path)], 'is a folder: give the path of a'),
    ):
        with pytest.raises(SystemExit):
            run(tool, files, *flags)
        assert message in capsys.readouterr().err
