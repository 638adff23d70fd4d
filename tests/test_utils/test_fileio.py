"""Atomic files: whole, old or absent, never half."""

from __future__ import annotations

import errno
import logging
import os
import threading

import pytest

from mergevq_mm.utils import atomic_backend, fileio


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
    assert [p.name for p in tmp_path.iterdir()] == ['a.bin']


def test_two_writers_do_not_meet(tmp_path, monkeypatch):
    """Each of them renames what it has written itself."""
    path, meeting, names = tmp_path / 'a.bin', threading.Barrier(2), []
    replace = os.replace

    def late(a, b):  # both have written and none has renamed
        names.append(str(a))
        meeting.wait(30)
        replace(a, b)

    monkeypatch.setattr(os, 'replace', late)
    contents = [b'a' * 1000, b'b' * 2000]
    writers = [
        threading.Thread(target=fileio.write_atomically, args=(content, path))
        for content in contents
    ]
    for thread in writers:
        thread.start()
    for thread in writers:
        thread.join()
    assert path.read_bytes() in contents and len(set(names)) == 2
    assert [p.name for p in tmp_path.iterdir()] == ['a.bin']


def test_the_longest_name(tmp_path):
    path = tmp_path / ('é' * 127)  # 254 of 255 bytes
    fileio.write_atomically(b'one', path)
    assert path.read_bytes() == b'one'


def test_what_a_kill_left_is_cleared(tmp_path):
    for name in ('a.pth.tmp', 'b.pth', 'c.json.tmp', 'last_checkpoint.tmp'):
        (tmp_path / name).touch()
    drawn = fileio.temporary_name(tmp_path / 'b.pth')
    drawn.touch()
    fileio.clear_temporary(tmp_path, '*.pth')
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == ['b.pth', 'c.json.tmp', 'last_checkpoint.tmp']
    fileio.temporary_name(tmp_path / 'last_checkpoint').touch()
    fileio.clear_temporary(tmp_path, 'last_checkpoint')
    assert len(list(tmp_path.iterdir())) == 2
    fileio.clear_temporary(tmp_path / 'missing', '*.pth')


def test_removal_waits(tmp_path):
    backend = atomic_backend.AtomicLocalBackend()
    paths = [str(tmp_path / name) for name in 'ab']
    for path in paths:
        backend.put(b'x', path)
        backend.remove(path)
        assert os.path.isfile(path)
    backend.remove_outdated(keep=(paths[1], None))
    assert [os.path.isfile(path) for path in paths] == [False, True]
    assert backend.outdated == []


def test_what_cannot_be_deleted_is_tried_again(tmp_path, monkeypatch):
    backend, path = atomic_backend.AtomicLocalBackend(), str(tmp_path / 'a')
    backend.put(b'x', path)
    backend.remove(path)
    told, remove = [], os.remove
    monkeypatch.setattr(
        atomic_backend,
        'print_log',
        lambda text, logger, level: told.append((text, level)),
    )

    def refuse(name):
        raise PermissionError(errno.EPERM, 'Operation not permitted', name)

    monkeypatch.setattr(os, 'remove', refuse)
    for _ in range(2):
        backend.remove_outdated()
        assert backend.outdated == [path]
    ((text, level),) = told  # once
    assert level == logging.WARNING
    assert f'"{path}" cannot be deleted (Operation not permitted)' in text
    monkeypatch.setattr(os, 'remove', remove)
    backend.remove_outdated()
    assert backend.outdated == [] and not os.path.exists(path)


def test_a_folder_is_seen_when_it_is_complete(tmp_path):
    folder = tmp_path / 'deep' / 'data'
    with fileio.new_folder(folder) as work:
        (work / 'one').write_text('1')
        assert not folder.exists()
    assert [path.name for path in folder.iterdir()] == ['one']
    assert folder.stat().st_mode & 0o777 == 0o755
    with pytest.raises(ZeroDivisionError), fileio.new_folder(tmp_path / 'other'):
        raise ZeroDivisionError
    with pytest.raises(OSError), fileio.new_folder(folder):  # it holds something
        pass
    assert (folder / 'one').read_text() == '1'
    assert sorted(path.name for path in tmp_path.rglob('*')) == ['data', 'deep', 'one']
    text = 'folder ".*" cannot be made .*: choose another'
    for name in ('one/data', 'one/deep/data'):  # below a file
        with pytest.raises(OSError, match=text), fileio.new_folder(folder / name):
            pytest.fail('there is no folder')


def test_what_a_new_folder_would_replace(tmp_path):
    (tmp_path / 'file').touch()
    (tmp_path / 'empty').mkdir()
    taken = {name: fileio.is_taken(tmp_path / name) for name in ('file', 'empty', 'x')}
    assert taken == {'file': True, 'empty': False, 'x': False}
    assert fileio.is_taken(tmp_path)
