"""tools/extract_codes.py: codes as encoded one by one, resumption, ranks, refusals."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from mmengine.config import Config
from PIL import Image
from tiny_mergevq import SIZE, build_model, run_cfg, write_images

from mergevq_mm import Budget
from mergevq_mm.datasets import MergeVQCodes
from mergevq_mm.models import MergeVQ, MergeVQEncoder
from mergevq_mm.models.generators.tokenizer import FrozenTokenizer
from mergevq_mm.models.utils.budget_signals import psnr_table
from mergevq_mm.registry import DATASETS

TOOL = Path(__file__).resolve().parents[2] / 'tools' / 'extract_codes.py'
KEEPS, PER_CLASS = (6, 9, 16), 5  # ten images: shards of 4, 4 and 2


@pytest.fixture(scope='module')
def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location('tool_extract_codes', TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope='module')
def model() -> MergeVQ:
    torch.manual_seed(7)
    return build_model().eval()


@pytest.fixture(scope='module')
def files(model: MergeVQ, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with images, a config and a checkpoint."""
    folder = tmp_path_factory.mktemp('extract')
    write_images(folder / 'data', PER_CLASS)
    write_images(folder / 'data', 2, split='val')
    run_cfg(folder / 'data', folder / 'work').dump(str(folder / 'tiny.py'))
    torch.save(dict(state_dict=model.state_dict()), folder / 'tiny.pth')
    return folder


@pytest.fixture
def extract(tool: ModuleType, files: Path) -> Callable[..., None]:
    """The tool, with small shards and all K."""

    def call(
        out: Path,
        *more: str,
        checkpoint: Path = files / 'tiny.pth',
        config: Path = files / 'tiny.py',
    ) -> None:
        keeps = ['--keep', *map(str, KEEPS)]
        sizes = ['--shard-size', '4', '--batch-size', '3', '--device', 'cpu']
        paths = [str(config), str(checkpoint), str(out)]
        tool.main([*paths, *keeps, *sizes, *more])

    return call


def centre(path: Path, flip: bool) -> torch.Tensor:
    """An image as the model takes it, 1×3×8×8 in [-1, 1]; read without the package."""
    with Image.open(path) as image:
        pixels = np.asarray(image.convert('RGB'))
    edge = (pixels.shape[0] - SIZE) // 2
    pixels = pixels[edge : edge + SIZE, edge : edge + SIZE]
    pixels = pixels[:, ::-1] if flip else pixels
    image = torch.from_numpy(pixels.copy()).permute(2, 0, 1).float()
    return (image[None] - 127.5) / 127.5


def content(out: Path) -> dict[str, bytes]:
    """All files of a folder."""
    return {
        str(path.relative_to(out)): path.read_bytes()
        for path in sorted(out.rglob('*'))
        if path.is_file()
    }


# ------------------------------------------------------------------------------ values


@pytest.mark.parametrize('flip', [False, True])
@torch.no_grad()
def test_codes_are_those_of_encoding_one_by_one(extract, files, model, tmp_path, flip):
    extract(tmp_path / 'codes')
    dataset = MergeVQCodes(tmp_path / 'codes', flip_prob=float(flip))
    paths = sorted((files / 'data' / 'train').rglob('*.png'))
    assert len(dataset) == len(paths) == 2 * PER_CLASS
    assert dataset.keeps == KEEPS and dataset.metainfo['classes'] == ('a', 'b')
    for i, path in enumerate(paths):
        item = dataset[i]
        assert item['data_samples'].gt_label.item() == 'ab'.index(path.parent.name)
        for keep in KEEPS:
            merged, quantized = model.encode(centre(path, flip), keep)
            assert torch.equal(item['inputs'][f'index_K{keep}'], quantized.index[0])
            assert torch.equal(item['inputs'][f'group_K{keep}'], merged.group[0])
            groups = item['inputs'][f'group_K{keep}'].tolist()
            assert list(dict.fromkeys(groups)) == list(range(keep))


@torch.no_grad()
def test_images_of_a_budget_have_a_keep_each(extract, files, model, tmp_path, capsys):
    paths = sorted((files / 'data' / 'train').rglob('*.png'))
    x = torch.cat([centre(path, False) for path in paths])
    aim = float(np.median(psnr_table(model, x, model.backbone.embed(x), KEEPS)))
    budget = Budget(psnr=aim, keeps=KEEPS)
    extract(tmp_path / 'codes', '--min-psnr', str(aim))
    assert capsys.readouterr().out.endswith(
        f'10 images, K of 6, 9, 16: 3 of 3 shards are in {tmp_path}/codes.\n'
    )
    seen = set()
    for flip in (False, True):
        dataset = MergeVQCodes(tmp_path / 'codes', flip_prob=float(flip))
        assert dataset.ragged and dataset.keeps == KEEPS
        assert dataset.header.budget == str(budget)
        for i, path in enumerate(paths):
            keep, item = dataset.keep_of(i), dataset[i]['inputs']
            alone, _ = model.encode(centre(path, False), budget)
            assert alone.keeps == [keep]  # that of the image, its mirror's too
            merged, quantized = model.encode(centre(path, flip), keep)
            assert torch.equal(item['index'], quantized.index[0])
            assert torch.equal(item['group'], merged.group[0])
            seen.add(keep)
    assert len(seen) > 1
    with pytest.raises(SystemExit, match=r"was begun with budget='Budget\(psnr="):
        extract(tmp_path / 'codes', '--min-psnr', '99')
    with pytest.raises(SystemExit, match='--mean-tokens and --min-psnr contradict'):
        extract(tmp_path / 'codes', '--min-psnr', '99', '--mean-tokens', '9')


@torch.no_grad()
def test_a_mean_is_that_of_each_batch(extract, files, model, tmp_path, monkeypatch):
    paths = sorted((files / 'data' / 'train').rglob('*.png'))
    embed, passes = MergeVQEncoder.embed, []
    monkeypatch.setattr(
        MergeVQEncoder, 'embed', lambda self, x: passes.append(len(x)) or embed(self, x)
    )
    extract(tmp_path / 'codes', '--mean-tokens', '9')
    # The first image to see that all fits, then each batch, with its mirror images.
    assert passes == [2 * number for number in (1, 3, 1, 3, 1, 2)]
    monkeypatch.undo()
    budget, keeps = Budget(mean=9, keeps=KEEPS), []
    for first, end in ((0, 3), (3, 4), (4, 7), (7, 8), (8, 10)):
        images = torch.cat([centre(path, False) for path in paths[first:end]])
        keeps += model.encode(images, budget)[0].keeps
        assert sum(keeps[first:]) <= 9 * (end - first)
    assert len(set(keeps)) > 1
    for flip in (False, True):
        dataset = MergeVQCodes(tmp_path / 'codes', flip_prob=float(flip))
        assert [dataset.keep_of(i) for i in range(len(dataset))] == keeps
        for i, path in enumerate(paths):
            merged, quantized = model.encode(centre(path, flip), keeps[i])
            assert torch.equal(dataset[i]['inputs']['index'], quantized.index[0])
            assert torch.equal(dataset[i]['inputs']['group'], merged.group[0])


def test_a_mean_is_continued_with_batches_of_one_size(extract, tmp_path):
    mean, other = ('--mean-tokens', '9'), ('--batch-size', '2')
    out, file = tmp_path / 'codes', tmp_path / 'codes' / 'codes.json'
    extract(out, *mean)
    extract(out, *mean)
    with pytest.raises(SystemExit, match='begun with batch_size=3, not 2; give anoth'):
        extract(out, *mean, *other)
    about = json.loads(file.read_text())
    assert about.pop('batch_size') == 3
    file.write_text(json.dumps(about))  # one of before batches were noted
    assert len(MergeVQCodes(out)) == 10
    extract(out, *mean, *other)
    file.write_text(json.dumps({**about, 'batch_size': '3'}))
    with pytest.raises(ValueError, match="damaged codes.json: batch_size='3' is none"):
        MergeVQCodes(out)
    for more in ((), ('--min-psnr', '9')):  # each image for itself
        extract(tmp_path / f'own{len(more)}', *more)
        extract(tmp_path / f'own{len(more)}', *more, *other)


def test_header_names_the_tokenizer(extract, files, tmp_path):
    extract(tmp_path / 'codes')
    cfg = dict(
        type='mergevq_mm.FrozenTokenizer',
        model=str(files / 'tiny.py'),
        checkpoint=str(files / 'tiny.pth'),
    )
    header = MergeVQCodes(tmp_path / 'codes', tokenizer=cfg).header
    tokenizer = FrozenTokenizer(cfg['model'], cfg['checkpoint'])
    assert header.fingerprint == tokenizer.fingerprint()
    assert (header.bits, header.split, header.grid) == (6, (2, 4), (4, 4))
    assert [shard['samples'] for shard in header.shards] == [4, 4, 2]
    other = dict(cfg, checkpoint=None, random_init=True)
    with pytest.raises(ValueError, match='holds codes of the tokenizer'):
        MergeVQCodes(tmp_path / 'codes', tokenizer=other)


def test_without_flip_and_keep_and_of_another_split(tool, files, tmp_path, capsys):
    paths = [str(files / 'tiny.py'), str(files / 'tiny.pth'), str(tmp_path / 'codes')]
    tool.main([*paths, '--split', 'val', '--no-flip', '--device', 'cpu'])
    dataset = MergeVQCodes(tmp_path / 'codes', flip_prob=0)
    assert len(dataset) == 4 and dataset.keeps == (9,)  # the target of training
    index = np.load(tmp_path / 'codes' / 'shard_00000' / 'index_K9.npy')
    assert index.shape == (4, 1, 9) and index.dtype == np.int32
    out = capsys.readouterr().out
    assert 'encode: 4/4 (100 %), 0:00:00 left' in out
    assert '4 images, K = 9: 1 of 1 shards are in' in out
    config = str(files / 'share.py')
    for keep in (0.25, dict(target=0.25, candidates=[4, 9])):
        cfg = Config.fromfile(paths[0])
        cfg.model.keep = keep
        cfg.dump(config)
        tool.main([config, *paths[1:2], str(tmp_path / 'share'), '--device', 'cpu'])
        assert MergeVQCodes(tmp_path / 'share').keeps == (4,)


@torch.no_grad()
def test_random_views_of_each_image(extract, files, model, tmp_path):
    cfg = Config.fromfile(files / 'tiny.py')
    crop = dict(type='mmpretrain.RandomCrop', crop_size=SIZE)
    load, pack = cfg.val_dataloader.dataset.pipeline[0::2]
    cfg.codes_pipeline = [load, crop, pack]
    cfg.dump(str(tmp_path / 'views.py'))
    out, config = tmp_path / 'codes', tmp_path / 'views.py'
    extract(out, '--views', '3', config=config)
    dataset = MergeVQCodes(out, flip_prob=0)
    assert len(dataset) == 3 * 2 * PER_CLASS

    number = 2 * PER_CLASS
    images = DATASETS.build({**cfg.train_dataloader.dataset, 'pipeline': [load, pack]})
    different = 0
    for i in range(number):
        pixels = images[i]['inputs'].flip(0).float() / 127.5 - 1  # BGR to RGB
        rows, columns = (edge - SIZE + 1 for edge in pixels.shape[1:])
        crops = torch.stack(
            [
                pixels[:, y : y + SIZE, x : x + SIZE]
                for y in range(rows)
                for x in range(columns)
            ]
        )
        possible = {tuple(row) for row in model.encode(crops, 9)[1].index.tolist()}
        views = [dataset[i + view * number] for view in range(3)]
        drawn = [tuple(view['inputs']['index_K9'].tolist()) for view in views]
        assert set(drawn) <= possible
        assert len({int(view['data_samples'].gt_label) for view in views}) == 1
        different += len(set(drawn)) > 1
    assert different > number / 2

    again = tmp_path / 'again'
    torch.rand(5)  # the state of the process does not matter
    extract(again, '--views', '3', config=config)
    assert content(again) == content(out)
    with pytest.raises(SystemExit, match='begun with samples=30, not 20; give'):
        extract(out, '--views', '2', config=config)


# --------------------------------------------------------------------------- resumption


def test_a_killed_run_is_continued_to_the_very_same_files(
    extract, tmp_path, monkeypatch, capsys
):
    extract(tmp_path / 'whole')
    expected = content(tmp_path / 'whole')

    encode, calls = FrozenTokenizer.encode_each, []

    def killed(self, images, keeps):
        calls.append(keeps)
        if len(calls) > 3:  # in the second shard
            raise KeyboardInterrupt
        return encode(self, images, keeps)

    monkeypatch.setattr(FrozenTokenizer, 'encode_each', killed)
    out = tmp_path / 'killed'
    with pytest.raises(SystemExit, match='interrupted: the same command continues'):
        extract(out)
    monkeypatch.undo()
    names = sorted(path.name for path in out.iterdir())
    assert names == ['codes.json', 'shard_00000', 'shard_00001.tmp']
    with pytest.raises(ValueError, match='shard_00001 is only half written'):
        MergeVQCodes(out)

    before = (out / 'shard_00000' / 'index_K9.npy').stat().st_mtime_ns
    capsys.readouterr()
    extract(out)
    assert 'encode: 6/6' in capsys.readouterr().out  # the first four are not redone
    assert content(out) == expected
    assert (out / 'shard_00000' / 'index_K9.npy').stat().st_mtime_ns == before

    (out / 'shard_00002' / 'labels.npy').write_bytes(b'cut')  # a damaged one is redone
    extract(out)
    assert content(out) == expected
    extract(out)
    assert '3 of 3 shards' in capsys.readouterr().out.splitlines()[-1]


def test_processes_share_the_shards(extract, tmp_path, monkeypatch, capsys):
    extract(tmp_path / 'one')
    monkeypatch.setenv('WORLD_SIZE', '2')
    monkeypatch.setenv('RANK', '1')
    capsys.readouterr()
    extract(tmp_path / 'two')
    assert '1 of 3 shards' in capsys.readouterr().out
    names = sorted(path.name for path in (tmp_path / 'two').iterdir())
    assert names == ['codes.json', 'shard_00001']
    with pytest.raises(ValueError, match='shard_00000 is missing'):
        MergeVQCodes(tmp_path / 'two')
    monkeypatch.setenv('RANK', '0')
    extract(tmp_path / 'two')
    assert content(tmp_path / 'two') == content(tmp_path / 'one')


# ---------------------------------------------------------------------------- bad input


def test_refuses_a_folder_of_something_else(extract, files, model, tmp_path):
    out = tmp_path / 'codes'
    extract(out)
    before = content(out)
    state = model.state_dict()
    state['backbone.cls_token'] = state['backbone.cls_token'] + 1
    torch.save(state, tmp_path / 'other.pth')
    for more, text in (
        (('--keep', '6', '9'), r'begun with keeps=\[6, 9, 16\], not \[6, 9\]; give'),
        (('--no-flip',), 'begun with flips=2, not 1; give another folder'),
        (('--split', 'val'), 'begun with samples=10, not 4; give another folder'),
        (
            ('--cfg-options', 'val_dataloader.dataset.pipeline.1.auto_pad=True'),
            'begun with source=.*; give another folder',
        ),
    ):
        with pytest.raises(SystemExit, match=f'error: out="{out}" was {text}'):
            extract(out, *more)
    with pytest.raises(SystemExit, match='was begun with fingerprint='):
        extract(out, checkpoint=tmp_path / 'other.pth')
    assert content(out) == before
    foreign = files / 'data'
    with pytest.raises(
        SystemExit, match=r'holds other files .train. and no codes.json; give'
    ):
        extract(foreign)
    assert not (foreign / 'codes.json').exists()


def test_refuses_arguments_before_it_writes(extract, files, tmp_path):
    out = tmp_path / 'codes'
    for more, text in (
        (('--keep', '17'), r'keep=17 lies outside \[1, 16\]'),
        (('--keep', '9', '9'), r'keeps=\[9, 9\] .* give each K once'),
        (('--shard-size', '0'), 'shard_size=0 must be at least 1'),
        (('--views', '0'), '--views 0 leaves nothing to encode; give at least 1'),
        (('--views', '2'), 'config has no codes_pipeline'),
        (
            ('--cfg-options', 'val_dataloader.dataset.pipeline.1.crop_size=6'),
            '6x6 pixels do not fit a tokenizer of 8x8',
        ),
        (('--cfg-options', 'model.neck=None'), 'of a tokenizer lacks neck; give'),
        (
            ('--cfg-options', 'train_dataloader.dataset.data_root=nowhere'),
            'data_root=.nowhere.: there is no folder',
        ),
    ):
        with pytest.raises(SystemExit, match=f'error: .*{text}'):
            extract(out, *more)
        assert not out.exists()


def test_refuses_missing_files(tool, files, tmp_path):
    out = str(tmp_path / 'codes')
    with pytest.raises(SystemExit, match='error: Config "no.py" does not exist'):
        tool.main(['no.py', 'no.pth', out])
    with pytest.raises(SystemExit, match='error: Checkpoint "no.pth" does not exist'):
        tool.main([str(files / 'tiny.py'), 'no.pth', out])
    (tmp_path / 'empty.py').write_text('model = dict()')
    with pytest.raises(SystemExit, match='lacks backbone, quantizer, neck, decoder'):
        tool.main([str(tmp_path / 'empty.py'), 'no.pth', out])


def test_help_explains_with_examples():
    shown = subprocess.run(
        [sys.executable, str(TOOL), '--help'],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    for text in ('--no-flip', '--keep K', 'Examples', 'continued by the same command'):
        assert text in shown
