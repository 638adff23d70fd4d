"""Files of features and targets: good ones, and what must not be read."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_tensors

from mergevq_mm.evaluation.feature_files import read_features, write_features
from mergevq_mm.models.target_generators.stored_teacher import (
    read_targets,
    write_targets,
)

ROWS = {
    'cls': np.arange(12, dtype=np.float32).reshape(3, 4),
    'label': np.array([0, 1, 1]),
    'path': np.array(['a/0.png', 'b/1.png', 'b/22.png']),
}
ENDINGS = ('npz', 'safetensors')


def header(shape: tuple[int, ...], kind: str = '<f4') -> bytes:
    """The beginning of a ``.npy`` file, and four bytes of it."""
    file = io.BytesIO()
    about = {'descr': kind, 'fortran_order': False, 'shape': shape}
    np.lib.format.write_array_header_1_0(file, about)
    return file.getvalue() + bytes(4)


@pytest.mark.parametrize('ending', ENDINGS)
def test_features_come_back(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f'a.{ending}'
    write_features(path, ROWS, {'keep': '9'})
    rows, metadata = read_features(path)
    assert metadata == {'keep': '9'} and rows.keys() == ROWS.keys()
    assert all(np.array_equal(rows[name], ROWS[name]) for name in ROWS)


def test_types_that_numpy_lacks_come_as_float32(tmp_path: Path) -> None:
    tensors = {
        'cls': torch.ones(2, 3, dtype=torch.bfloat16),
        'avg': torch.ones(2, 3).to(torch.float8_e4m3fn),
        'label': torch.zeros(2, dtype=torch.int64),
    }
    save_tensors(tensors, tmp_path / 'a.safetensors')
    rows, _ = read_features(tmp_path / 'a.safetensors')
    assert 'path' not in rows
    for name in ('cls', 'avg'):
        assert rows[name].dtype == np.float32 and rows[name].sum() == 6


@pytest.mark.parametrize('ending', ENDINGS)
def test_every_flipped_bit_is_read_or_refused(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f'a.{ending}'
    write_features(path, ROWS)
    good, rng = path.read_bytes(), np.random.default_rng(0)
    refused = 0
    for number in range(300):
        data = bytearray(good)
        place = int(rng.integers(len(data)))
        data[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(data[:place] if number % 10 == 0 else data)
        try:
            read_features(path)
        except ValueError as error:
            refused += 1
            assert str(path) in str(error) and '\n' not in str(error)
    assert refused > 50


def test_archives_that_unpack_to_more(tmp_path: Path) -> None:
    """100 kB of zeros that are 100 MB, and headers that announce a terabyte."""
    path = tmp_path / 'a.npz'
    np.savez_compressed(path, label=np.zeros(3, int), cls=np.zeros((3, 10**7)))
    assert path.stat().st_size < 10**6
    with pytest.raises(ValueError, match='a.npz.* is damaged: it unpacks to 2'):
        read_features(path)
    for content, message in (
        (header((2**38,)), 'announces 1,099,511,627,776'),
        (header((1,), '|O'), 'is no number and no text'),
        (header((2**40,), '<U0'), 'is no number and no text'),
        (header((-5,)), 'is damaged'),
        (b'', 'is damaged'),
        (b'\x80\x02}.', 'is damaged'),
    ):
        with zipfile.ZipFile(path, 'w') as archive:
            archive.writestr('label.npy', content)
        with pytest.raises(ValueError, match=message) as caught:
            read_features(path)
        assert str(path) in str(caught.value) and '\n' not in str(caught.value)


def test_compressed_features_are_read(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / 'a.npz', **ROWS)
    assert read_features(tmp_path / 'a.npz')[0]['cls'].shape == (3, 4)


@pytest.mark.parametrize(
    ('metadata', 'message'),
    [
        ({'path': json.dumps(['x' * 2**20] + ['y'] * 9999)}, 'no list of texts'),
        ({'path': '["a", ["b", "c"], 3]'}, 'no list of texts'),
        ({'path': '{"a": 1}'}, 'no list of texts'),
        ({'path': '["a", "b"'}, 'its metadata is no JSON'),
        ({'path': '[' * 10**5}, 'its metadata is no JSON'),
        ({'path': '["a"]'}, "has 1 rows of 'path' for 3 images"),
    ],
)
def test_paths_of_a_wrong_kind(tmp_path: Path, metadata: dict, message: str) -> None:
    path = tmp_path / 'a.safetensors'
    save_file({'label': ROWS['label']}, path, metadata)
    with pytest.raises(ValueError, match=message) as caught:
        read_features(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'label': np.ones(3)}, 'has labels of shape .3,. and type float64'),
        ({'label': np.ones((3, 1), int)}, 'has labels of shape .3, 1. and type'),
        ({'cls': np.ones((2, 4))}, "has 2 rows of 'cls' for 3 images"),
        ({'cls': np.float32(1)}, "has None rows of 'cls' for 3 images"),
        ({'metadata': np.array('{"a": ')}, 'its metadata is no JSON'),
        ({'metadata': np.array('[1]')}, 'its metadata is no JSON'),
    ],
)
def test_rows_of_a_wrong_kind(tmp_path: Path, change: dict, message: str) -> None:
    np.savez(tmp_path / 'a.npz', **{**ROWS, **change})
    with pytest.raises(ValueError, match=message):
        read_features(tmp_path / 'a.npz')


@pytest.mark.parametrize('ending', ENDINGS)
def test_targets(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f'a.{ending}'
    targets = torch.arange(6.0).reshape(3, 2)
    write_targets(path, ['a', 'b', 'c'], targets)
    stored = read_targets(path)
    assert stored.keys == ['a', 'b', 'c'] and torch.equal(stored.targets, targets)
    arrays = {'targets': ROWS['cls'], 'mean': np.ones(4, 'f4'), 'std': np.ones(3, 'f4')}
    if ending == 'npz':
        np.savez(path, keys=np.array(['a', 'b', 'c']), **arrays)
    else:
        save_file(arrays, path, {'keys': '["a", "b", "c"]'})
    with pytest.raises(ValueError, match='is no file of targets .3 keys, targets of'):
        read_targets(path)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ValueError, match='is no file of targets .*is damaged'):
        read_targets(path)
