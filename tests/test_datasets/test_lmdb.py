"""Packed data sets: the same images as from a folder, in workers too."""

from __future__ import annotations

import importlib.util
import io
import os
import tarfile
from pathlib import Path

import pytest
import tiny_mergevq as tiny
import torch
from torch.utils.data import DataLoader

from mergevq_mm.datasets import ImageFolder, PackedLmdbBackend, TarBackend
from mergevq_mm.datasets.packing import index_shards, list_images, pack, write_list
from mergevq_mm.utils.config import load_config

KINDS = [
    pytest.param(
        kind,
        marks=pytest.mark.skipif(
            kind == 'lmdb' and not importlib.util.find_spec('lmdb'),
            reason='lmdb is not installed',
        ),
    )
    for kind in ('lmdb', 'tar')
]
SUFFIX = {'lmdb': '.lmdb', 'tar': '.tars'}


def _images(root: Path) -> list:
    return list_images(root, 'train')


def _data_set(root: Path, backend_args: dict | None = None) -> ImageFolder:
    load = dict(type='mergevq_mm.LoadImage', backend_args=backend_args)
    pack_inputs = dict(type='mmpretrain.PackInputs')
    return ImageFolder(str(root), 'train', test_mode=True, pipeline=[load, pack_inputs])


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tiny.write_images(tmp_path / 'data')
    (root / 'train' / 'b' / '3.png').rename(root / 'train' / 'b' / 'ü e.x.png')
    return root


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('workers', [0, 2])
def test_samples_are_those_of_the_folder(
    kind: str, workers: int, root: Path, tmp_path: Path
) -> None:
    shards = dict(shard_bytes=1000) if kind == 'tar' else {}
    target = pack(_images(root), tmp_path / 'packed', 'train', kind, **shards)
    assert target == tmp_path / 'packed' / f'train{SUFFIX[kind]}'
    args = dict(backend=f'mergevq_{kind}', path=str(target))
    packed, folder = _data_set(tmp_path / 'packed', args), _data_set(root)
    assert len(packed) == len(folder) == 8
    packed[0]  # opened before the workers are forked
    loader = DataLoader(packed, batch_size=None, num_workers=workers)
    every = [folder[i] for i in range(len(folder))]
    for found, expected in zip(loader, every, strict=True):
        assert torch.equal(found['inputs'], expected['inputs'])
        assert found['data_samples'].gt_label == expected['data_samples'].gt_label


@pytest.mark.parametrize('kind', KINDS)
def test_missing_images_and_files(kind: str, root: Path, tmp_path: Path) -> None:
    target = pack(_images(root), tmp_path / 'packed', 'train', kind)
    backend = {'lmdb': PackedLmdbBackend, 'tar': TarBackend}[kind]
    found = backend(target)
    content = (root / 'train' / 'a' / '1.png').read_bytes()
    assert found.get(tmp_path / 'packed' / 'train' / 'a' / '1.png') == content
    assert found.get('a/1.png') == content
    assert backend(target, root='/x').get('/x/a/1.png') == content
    with pytest.raises(FileNotFoundError, match="has no image 'a/9.png'"):
        found.get('a/9.png')
    with pytest.raises(FileNotFoundError, match='pack_images.py'):
        backend(tmp_path / 'nothing').get('a/1.png')
    with pytest.raises(ValueError, match='exists; remove it'):
        pack(_images(root), tmp_path / 'packed', 'train', kind)


def test_shards_are_small_and_webdataset_s(root: Path, tmp_path: Path) -> None:
    target = pack(_images(root), tmp_path / 'packed', 'train', 'tar', 2000)
    shards = sorted(target.glob('*.tar'))
    assert len(shards) > 1
    seen = []
    for shard in shards:
        with tarfile.open(shard) as file:
            names = file.getnames()
            for image, label in zip(names[::2], names[1::2], strict=True):
                stem = image.rpartition('.')[0]
                assert label == f'{stem}.cls'
                seen.append((image, int(file.extractfile(label).read())))
    expected = [(image.name, image.label) for image in _images(root)]
    assert seen == expected
    lines = (tmp_path / 'packed' / 'meta' / 'train.txt').read_text().splitlines()
    assert lines == [f'{name} {label}' for name, label in expected]

    (target / 'index.json').unlink()  # shards that came from elsewhere
    (tmp_path / 'packed' / 'meta' / 'train.txt').unlink()
    write_list(index_shards(target), tmp_path / 'packed', 'train')
    assert len(_data_set(tmp_path / 'packed', None)) == 8
    assert TarBackend(target).get(seen[5][0]) == _images(root)[5].path.read_bytes()


def test_a_damaged_shard_is_named(root: Path, tmp_path: Path) -> None:
    target = pack(_images(root), tmp_path / 'packed', 'train', 'tar')
    os.truncate(target / '000000.tar', 1000)
    with pytest.raises(OSError, match='"000000.tar" .* ends before'):
        TarBackend(target).get('b/1.png')


def test_a_killed_packing_leaves_nothing(root: Path, tmp_path: Path) -> None:
    def die(done: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pack(_images(root), tmp_path / 'packed', 'train', 'tar', progress=die)
    assert not (tmp_path / 'packed' / 'train.tars').exists()
    assert pack(_images(root), tmp_path / 'packed', 'train', 'tar').is_dir()


def test_command(
    root: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = Path(__file__).parents[2] / 'tools' / 'dataset_converters'
    monkeypatch.syspath_prepend(str(folder))
    import pack_images

    pack_images.main([str(root), str(tmp_path / 'packed')])
    assert '8/8 images' in capsys.readouterr().out
    (tmp_path / 'packed' / 'meta' / 'train.txt').unlink()
    pack_images.main([str(tmp_path / 'packed'), '--index-only'])
    assert len(_data_set(tmp_path / 'packed')) == 8
    with pytest.raises(SystemExit, match='holds no class folder'):
        pack_images.main([str(tmp_path / 'packed'), str(tmp_path / 'other')])


def test_config_of_the_docs(root: Path, tmp_path: Path) -> None:
    """The snippet of docs/speed.md puts the tar files into a config's pipeline."""
    repository = Path(__file__).parents[2]
    text = (repository / 'docs' / 'speed.md').read_text()
    snippet = text.split('```python\n_base_')[1].split('```')[0]
    path = tmp_path / 'run.py'
    config = f'{repository / "configs" / "mergevq_g+r.py"}'
    path.write_text(f'_base_{snippet}'.replace('mergevq_g+r.py', config))
    data = load_config(path).train_dataloader.dataset
    assert data.data_root == 'data/packed/' and data.split == 'train'
    load, *others = data.pipeline
    assert load.backend_args.to_dict() == dict(
        backend='mergevq_tar', path='data/packed/train.tars'
    )
    assert [step.type for step in others] == [
        'mmpretrain.MultiView',
        'mmpretrain.PackInputs',
    ]


def write_shard(path: Path, members: dict[str, bytes]) -> None:
    path.parent.mkdir(exist_ok=True)
    with tarfile.open(path, 'w') as file:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            file.addfile(member, io.BytesIO(content))


def test_other_members_of_a_webdataset_are_no_images(tmp_path: Path) -> None:
    folder = tmp_path / 'train.tars'
    others = {f'0.{ending}': b'?' for ending in ('json', 'txt', 'npy', 'seg.png')}
    more = {'2.json': b'{}', '0.json': b'?'}
    hidden = {'._0.jpg': b'?', '._0.cls': b'?', '.x/1.jpg': b'?', '.x/1.cls': b'0'}
    images = {'0.jpg': b'first', '0.cls': b'7\n', 'a/1.JPG': b'second', 'a/1.cls': b'3'}
    write_shard(folder / '0.tar', {**others, **hidden, **images})
    write_shard(folder / '1.tar', {**more, './2.webp': b'third', './2.cls': b' 0 '})
    found = index_shards(folder)
    assert found == [('0.jpg', 7), ('a/1.JPG', 3), ('./2.webp', 0)]
    backend = TarBackend(folder)
    assert [backend.get(name) for name, _ in found] == [b'first', b'second', b'third']


@pytest.mark.parametrize('content', [b'cat', b'', b'-1', b'1.0', b'\xff'])
def test_a_class_that_is_no_number(content: bytes, tmp_path: Path) -> None:
    write_shard(tmp_path / 's' / '0.tar', {'0.jpg': b'', '0.cls': content})
    with pytest.raises(ValueError, match=r"0.tar.*'0.cls' holds .* no class id"):
        index_shards(tmp_path / 's')
    assert not (tmp_path / 's' / 'index.json').exists()


def test_shards_without_classes_or_damaged(tmp_path: Path) -> None:
    write_shard(tmp_path / 's' / '0.tar', {'0.jpg': b'', '1.jpg': b''})
    with pytest.raises(FileNotFoundError, match='2 images, none of them with a class'):
        index_shards(tmp_path / 's')
    (tmp_path / 's' / '1.tar').write_bytes(b'x' * 700)
    with pytest.raises(ValueError, match='1.tar" is no whole tar file'):
        index_shards(tmp_path / 's')
