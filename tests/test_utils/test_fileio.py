"""Atomic files: whole, old or absent, never half."""

from __future__ import annotations

import errno
import os

import pytest

from mergevq_mm.utils import fileio


def test_write_replaces_and_leaves_no_rest(tmp_path):
    path = tmp_path / 'new' / 'a.bin'
    fileio.write_atomically(b'one', path)
    fileio.write_atomically(b'two', path)
    assert path.read_bytes() == b'two'
    assert [p.name for p in path.parent.iterdir()] == ['a.bin']


def test_full_disk_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / 'a.bin'
    fileio.write_atomically(b'one', path)

    def full(descriptor):
        raise OSError(errno.ENOSPC, 'No space left on device')

    monkeypatch.setattr(os, 'fsync', full)
    with pytest.raises(OSError, match='Saving 5 bytes to .*a.bin') as error:
        fileio.write_atomically(b'three', path)
    assert error.value.errno == errno.ENOSPC
    assert path.read_bytes() == b'one'
    assert [p.name for p in tmp_path.iterdir()] == ['a.bin']


def test_kill_before_the_rename_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / 'a.bin'
    fileio.write_atomically(b'one', path)

    def killed(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, 'replace', killed)
    with pytest.raises(KeyboardInterrupt):
        fileio.write_atomically(b'two', path)
    assert path.read_bytes() == b'one'


def test_what_a_kill_left_is_cleared(tmp_path):
    for name in ('a.pth.tmp', 'b.pth', 'c.json.tmp', 'last_checkpoint.tmp'):
        (tmp_path / name).touch()
    fileio.clear_temporary(tmp_path, '*.pth')
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == ['b.pth', 'c.json.tmp', 'last_checkpoint.tmp']
    fileio.clear_temporary(tmp_path / 'missing', '*.pth')


def test_removal_waits(tmp_path):
    backend = fileio.AtomicLocalBackend()
    paths = [str(tmp_path / name) for name in 'ab']
    for path in paths:
        backend.put(b'x', path)
        backend.remove(path)
        assert os.path.isfile(path)
    backend.remove_outdated(keep=(paths[1], None))
    assert [os.path.isfile(path) for path in paths] == [False, True]
    assert backend.outdated == []
