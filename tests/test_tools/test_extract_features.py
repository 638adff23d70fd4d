"""tools/extract_features.py and the tools on it: k-NN, throughput against accuracy."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from macs_by_hand import encoder_macs
from PIL import Image
from tiny_mergevq import DIMS, ENCODER, SIZE, build_model, run_cfg, write_images

from mergevq_mm import Budget
from mergevq_mm.evaluation import knn_accuracy
from mergevq_mm.evaluation.feature_files import read_features, write_features
from mergevq_mm.evaluation.probe import linear_probe
from mergevq_mm.models import MergeVQ
from mergevq_mm.models.utils.merge_schedule import merge_schedule

TOOLS = Path(__file__).resolve().parents[2] / 'tools'
KEEP, PER_CLASS = 9, 10


class Tools:
    """The scripts, imported as a run of one of them imports the others."""

    def __getattr__(self, name: str) -> ModuleType:
        return importlib.import_module(name)


@pytest.fixture(scope='module')
def tools() -> Iterator[Tools]:
    before, path = set(sys.modules), list(sys.path)
    sys.path[:0] = [str(TOOLS / 'benchmarks'), str(TOOLS)]
    yield Tools()
    sys.path[:] = path
    for name in set(sys.modules) - before:
        file = getattr(sys.modules[name], '__file__', None) or ''
        if file.startswith(str(TOOLS)):
            del sys.modules[name]


@pytest.fixture(scope='module')
def model() -> MergeVQ:
    torch.manual_seed(7)
    return build_model().eval()


@pytest.fixture(scope='module')
def files(model: MergeVQ, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with images, a config and a checkpoint."""
    folder = tmp_path_factory.mktemp('features')
    write_images(folder / 'data', PER_CLASS)
    write_images(folder / 'data', 3, split='val')
    run_cfg(folder / 'data', folder / 'work').dump(str(folder / 'tiny.py'))
    torch.save(dict(state_dict=model.state_dict()), folder / 'tiny.pth')
    return folder


def given(files: Path, *more: str) -> list[str]:
    """Config, checkpoint and further arguments."""
    loader = ['--batch-size', '4', '--device', 'cpu']
    return [str(files / 'tiny.py'), str(files / 'tiny.pth'), *more, *loader]


def by_pixels(path: str) -> torch.Tensor:
    """An image as the model takes it, 1×3×8×8 in [-1, 1]."""
    with Image.open(path) as image:
        pixels = np.asarray(image.convert('RGB'))
    edge = (pixels.shape[0] - SIZE) // 2
    square = pixels[edge : edge + SIZE, edge : edge + SIZE].transpose(2, 0, 1)
    return torch.from_numpy(square.copy()).float()[None] / 127.5 - 1


def by_hand(model: MergeVQ, path: str, keep: int) -> dict[str, np.ndarray]:
    """Features of one image, position by position."""
    with torch.no_grad():
        merged = model.backbone.encode(by_pixels(path), keep)
        codes = model.quantizer(merged.tokens).codes
    group = merged.group[0].tolist()
    return {
        'cls': merged.cls[0].numpy(),
        'avg': np.mean([merged.tokens[0, g].numpy() for g in group], axis=0),
        'codes': np.mean([codes[0, g].numpy() for g in group], axis=0),
    }


@pytest.mark.parametrize(('ending', 'keep'), [('npz', KEEP), ('safetensors', 16)])
def test_features_are_those_of_each_image(
    tools: Tools, files: Path, model: MergeVQ, tmp_path: Path, ending: str, keep: int
) -> None:
    tool = tools.extract_features
    out = tmp_path / f'val.{ending}'
    more = [] if keep == 16 else ['--keep', str(keep)]
    tool.run(tool.parse_args(given(files, str(out), *more)))
    rows, metadata = read_features(out)
    assert rows['label'].tolist() == [0, 0, 0, 1, 1, 1]
    assert metadata['keep'] == ('all' if keep == 16 else str(keep))
    assert metadata['split'] == 'val'
    for i, path in enumerate(rows['path']):
        for name, value in by_hand(model, str(path), keep).items():
            np.testing.assert_allclose(rows[name][i], value, atol=1e-5)


def test_a_mean_gives_each_image_its_tokens(
    tools: Tools, files: Path, model: MergeVQ, tmp_path: Path
) -> None:
    """By similarity, as there is no decoder; and not beside a K, which 'all' is."""
    tool, out = tools.extract_features, tmp_path / 'val.npz'
    tool.run(tool.parse_args(given(files, str(out), '--mean-tokens', '8')))
    rows, metadata = read_features(out)
    assert metadata['keep'] == "Budget(mean=8, by='similarity')"
    images, keeps = [by_pixels(str(path)) for path in rows['path']], []
    with torch.no_grad():
        for batch in (images[:4], images[4:]):
            budget = Budget(mean=8, by='similarity')
            keeps += model.encode(torch.cat(batch), budget)[0].keeps
    assert len(set(keeps)) > 1
    for i, (path, keep) in enumerate(zip(rows['path'], keeps, strict=True)):
        for name, value in by_hand(model, str(path), keep).items():
            np.testing.assert_allclose(rows[name][i], value, atol=1e-5)
    for keep in ('all', '9'):
        more = ('--keep', keep, '--mean-tokens', '8')
        with pytest.raises(
            ValueError, match='--keep and --mean-tokens contradict each'
        ):
            tool.run(tool.parse_args(given(files, str(out), *more)))
    tool.run(tool.parse_args(given(files, str(out), '--keep', 'all')))
    assert read_features(out)[1]['keep'] == 'all'


def test_share_of_tokens_and_chosen_features(
    tools: Tools, files: Path, tmp_path: Path
) -> None:
    tool, rows = tools.extract_features, {}
    for keep in ('0.5', '8'):
        out = tmp_path / f'{keep}.npz'
        more = ('--keep', keep, '--features', 'cls', '--split', 'train')
        tool.run(tool.parse_args(given(files, str(out), *more)))
        rows[keep], metadata = read_features(out)
        assert set(rows[keep]) == {'cls', 'label', 'path'}
        assert json.loads(metadata['classes']) == ['a', 'b']
        assert rows[keep]['cls'].shape == (2 * PER_CLASS, DIMS)
    np.testing.assert_array_equal(rows['0.5']['cls'], rows['8']['cls'])


def test_refusals(tools: Tools, files: Path, tmp_path: Path) -> None:
    tool = tools.extract_features
    with pytest.raises(SystemExit, match=r'must end in \.npz or \.safetensors'):
        tool.guarded(lambda: tool.run(tool.parse_args(given(files, 'x.txt'))))
    foreign = tmp_path / 'foreign.pth'
    torch.save({'state_dict': {'conv.weight': torch.ones(1)}}, foreign)
    args = tool.parse_args([str(files / 'tiny.py'), str(foreign), 'x.npz'])
    with pytest.raises(SystemExit, match='expected keys like cls_token.*conv.weight'):
        tool.guarded(lambda: tool.run(args))
    with pytest.raises(FileNotFoundError, match='does not exist'):
        read_features(tmp_path / 'nothing.npz')
    write_features(tmp_path / 'bare.npz', {'cls': np.ones((2, 2))})
    with pytest.raises(ValueError, match='no "label"'):
        read_features(tmp_path / 'bare.npz')


# ---------------------------------------------------------------------------- k-NN


def features_of(tools: Tools, files: Path, split: str, keep: int | None) -> dict:
    """As the tool extracts them."""
    tool = tools.extract_features
    args = tool.parse_args(given(files, 'unused.npz'))
    return tool.extract(tool.read_config(args), split, ('cls', 'avg'), keep, args)


def test_knn_and_probe_of_a_model(tools: Tools, files: Path, tmp_path: Path) -> None:
    out = tmp_path / 'knn.json'
    more = ['--k', '1', '5', '--keep', '9', '--features', 'cls', 'avg', '--probe']
    tools.knn.main(given(files, *more, '--json', str(out)))
    content = json.loads(out.read_text())
    train, val = (features_of(tools, files, s, 9) for s in ('train', 'val'))
    for row in content['rows']:
        name = row['feature']
        x, labels, y, truth = train[name], train['label'], val[name], val['label']
        found = knn_accuracy(*map(torch.from_numpy, (x, labels, y, truth)), [1, 5])
        assert row['1'] == pytest.approx(100 * found[1])
        assert row['5'] == pytest.approx(100 * found[5])
        expected = linear_probe(x, labels, y, truth, tools.knn.PENALTIES)
        assert row['probe'] == pytest.approx(100 * expected)
    assert [row['feature'] for row in content['rows']] == ['cls', 'avg']


def test_knn_of_files(tools: Tools, tmp_path: Path) -> None:
    """Rows of the gallery are their own nearest neighbours; other labels are wrong."""
    rows = {'cls': np.eye(4, dtype=np.float32), 'label': np.array([0, 1, 2, 3])}
    write_features(tmp_path / 'train.npz', rows)
    rows['label'] = np.array([0, 1, 2, 0])
    write_features(tmp_path / 'val.safetensors', rows)
    sides = ['--gallery', str(tmp_path / 'train.npz')]
    sides += ['--queries', str(tmp_path / 'val.safetensors')]
    out = tmp_path / 'knn.json'
    rest = ['--features', 'cls', '--k', '1', '--json', str(out)]
    tools.knn.main([*sides, *rest])
    assert json.loads(out.read_text())['rows'][0]['1'] == 75.0
    with pytest.raises(ValueError, match='both --gallery and --queries'):
        tools.knn.main([*sides[:2], *rest])
    with pytest.raises(ValueError, match="has no feature 'avg'"):
        tools.knn.main([*sides, '--features', 'avg'])


@pytest.mark.parametrize('ending', ['npz', 'safetensors'])
def test_knn_of_other_classes(tools: Tools, tmp_path: Path, ending: str) -> None:
    """Files of data sets that number their classes differently, or have none."""
    rows = {'cls': np.eye(3, dtype=np.float32), 'label': np.array([0, 1, 2])}
    gallery, queries = tmp_path / f'train.{ending}', tmp_path / f'val.{ending}'
    write_features(gallery, rows, dict(classes='["a", "b", "c"]'))
    rows['label'] = np.array([0, 1, 1])
    command = ['--gallery', str(gallery), '--queries', str(queries)]
    command += ['--features', 'cls', '--k', '1']
    write_features(queries, rows, dict(classes='["a", "c"]'))
    with pytest.raises(ValueError, match="class 1 is 'b' in the training .* 'c' in"):
        tools.knn.main(command)
    write_features(queries, rows, dict(classes='["a", "b"]'))
    tools.knn.main(command)
    write_features(queries, {**rows, 'label': np.full(3, -1)})
    with pytest.raises(ValueError, match='held-out images have no labels'):
        tools.knn.main(command)


def test_knn_of_a_split_that_lacks_a_class(
    tools: Tools, files: Path, tmp_path: Path
) -> None:
    """The images of each class have a colour of their own: all are right."""
    rng = np.random.default_rng(0)
    for split, names in (('train', 'abc'), ('val', 'ac')):
        for name in names:
            folder = tmp_path / split / name
            folder.mkdir(parents=True)
            for i in range(4):
                pixels = rng.integers(0, 40, (10, 10, 3), dtype=np.uint8)
                pixels[..., 'abc'.index(name)] += 200
                Image.fromarray(pixels).save(folder / f'{i}.png')
    out = tmp_path / 'knn.json'
    options = [
        f'{split}_dataloader.dataset.{key}'
        for split in ('train', 'val')
        for key in (f'data_root={tmp_path}', 'num_classes=None')
    ]
    more = ['--k', '3', '--features', 'avg', '--probe', '--json', str(out)]
    tools.knn.main(given(files, *more, '--cfg-options', *options))
    row = json.loads(out.read_text())['rows'][0]
    assert row['3'] == row['probe'] == 100


# -------------------------------------------------------- throughput and accuracy


def test_tradeoff(tools: Tools, files: Path, tmp_path: Path) -> None:
    out, png = tmp_path / 'tradeoff.json', tmp_path / 'tradeoff.png'
    more = ['--keep', '4', '9', '--repeats', '2', '--time-batch', '2']
    tools.tradeoff.main(given(files, *more, '--json', str(out), '--png', str(png)))
    rows = {row['keep']: row for row in json.loads(out.read_text())['rows']}
    assert list(rows) == [16, 9, 4]  # merging off is always there
    plain = sum(encoder_macs(ENCODER, (SIZE, SIZE), [0, 0]).values())
    train = features_of(tools, files, 'train', None)
    wide = np.concatenate([train['cls'], train['avg']], axis=1)
    for keep, row in rows.items():
        plan = merge_schedule(16, keep, 2, 'linear')
        macs = sum(encoder_macs(ENCODER, (SIZE, SIZE), plan).values())
        assert row['macs'] == pytest.approx(macs / 1e6)
        assert row['fewer'] == pytest.approx(plain / macs)
        assert row['faster'] == pytest.approx(row['speed'] / rows[16]['speed'])
        val = features_of(tools, files, 'val', keep)
        seen = np.concatenate([val['cls'], val['avg']], axis=1)
        expected = linear_probe(
            wide, train['label'], seen, val['label'], tools.tradeoff.PENALTIES
        )
        assert row['frozen'] == pytest.approx(100 * expected)
    assert rows[16]['own'] == rows[16]['frozen']
    with Image.open(png) as picture:
        assert np.asarray(picture.convert('L')).std() > 5  # something is drawn
