"""Files: what is safe is loaded, everything else stops with a sentence."""

from __future__ import annotations

import argparse
import hashlib
import http.server
import os
import pickle
import shutil
import threading

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer

from mergevq_mm.utils import checkpoint_file as ckpt
from mergevq_mm.utils.checkpoint_format import FORMAT, format_mark


class Exploit:
    """Runs a command when it is unpickled without care."""

    def __init__(self, marker: str) -> None:
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (self.marker,)


def test_plain_files_load(tmp_path):
    path = tmp_path / 'a.pth'
    torch.save(
        dict(
            state_dict=dict(w=torch.ones(2)),
            scale=np.float64(0.5),
            mean=np.arange(3, dtype=np.float32),
            args=argparse.Namespace(lr=1),
        ),
        path,
    )
    content = ckpt.load_checkpoint_file(path)
    assert content['state_dict']['w'].tolist() == [1, 1]
    assert content['scale'] == 0.5 and content['mean'].tolist() == [0, 1, 2]
    assert content['args'].lr == 1


def test_safetensors_load(tmp_path):
    from safetensors.torch import save_file

    path = tmp_path / 'a.safetensors'
    save_file(dict(w=torch.arange(3.0)), path)
    assert ckpt.load_checkpoint_file(path)['w'].tolist() == [0, 1, 2]
    path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(ValueError, match='is damaged'):
        ckpt.load_checkpoint_file(path)


def test_missing_file():
    with pytest.raises(FileNotFoundError, match='"nowhere.pth" does not exist'):
        ckpt.load_checkpoint_file('nowhere.pth')


@pytest.mark.parametrize('legacy', [False, True])
def test_truncated_file(tmp_path, legacy):
    path = tmp_path / 'a.pth'
    torch.save(
        dict(w=torch.randn(1000)), path, _use_new_zipfile_serialization=not legacy
    )
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ValueError, match='truncated|damaged') as error:
        ckpt.load_checkpoint_file(path)
    assert str(path) in str(error.value) and '\n' not in str(error.value)


@pytest.mark.parametrize('content', [b'', b'<html>not found</html>', b'\x89PNG....'])
def test_foreign_file(tmp_path, content):
    path = tmp_path / 'a.pth'
    path.write_bytes(content)
    with pytest.raises(ValueError, match='no PyTorch checkpoint'):
        ckpt.load_checkpoint_file(path)


def test_file_without_a_dict(tmp_path):
    torch.save([torch.ones(1)], tmp_path / 'a.pth')
    with pytest.raises(ValueError, match='holds a list where a dict'):
        ckpt.load_checkpoint_file(tmp_path / 'a.pth')


def test_code_is_refused_unless_trusted(tmp_path, monkeypatch):
    marker, path = tmp_path / 'pwned', tmp_path / 'a.pth'
    torch.save(dict(state_dict=dict(w=torch.ones(1)), x=Exploit(str(marker))), path)
    with pytest.raises(ValueError, match='holds pickled objects') as error:
        ckpt.load_checkpoint_file(path)
    assert 'mkdir' in str(error.value) and ckpt.TRUST_VARIABLE in str(error.value)
    assert not marker.exists()
    ckpt.load_checkpoint_file(path, trust=True)
    assert marker.exists()
    marker.rmdir()
    monkeypatch.setenv(ckpt.TRUST_VARIABLE, '1')
    ckpt.load_from_local(str(path))
    assert marker.exists()


def test_checkpoint_of_a_stock_runner(tmp_path):
    """Its message hub holds mmengine's buffers and numpy's numbers."""
    buffer = HistoryBuffer([1.0, 3.0, 8.0], [1, 1, 2])
    hub = dict(log_scalars={'train/loss': buffer}, runtime_info=dict(lr=np.float64(2)))
    path = tmp_path / 'a.pth'
    torch.save(dict(state_dict=dict(w=torch.ones(1)), message_hub=hub), path)
    found = ckpt.load_checkpoint_file(path)['message_hub']
    read = found['log_scalars']['train/loss']
    assert type(read) is HistoryBuffer and found['runtime_info'] == {'lr': 2.0}
    for how in ('mean', 'min', 'max', 'current'):
        assert read.statistics(how) == buffer.statistics(how)


class Getattr:
    """A pickle that looks up an attribute."""

    def __init__(self, owner, name):
        self.call = (getattr, (owner, name))

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize(
    ('owner', 'name'),
    [(torch.Tensor, '__init__'), (HistoryBuffer, '__class__'), ('', 'format')],
)
def test_attributes_are_not_looked_up(tmp_path, owner, name):
    path = tmp_path / 'a.pth'
    torch.save(dict(x=Getattr(owner, name)), path)
    with pytest.raises(ValueError, match=r'holds pickled objects .builtins\.getattr.'):
        ckpt.load_checkpoint_file(path)


def test_a_file_registers_no_statistics(tmp_path, monkeypatch):
    registry = HistoryBuffer([1.0], [1])._statistics_methods
    buffer, before = HistoryBuffer([1.0], [1]), dict(registry)
    buffer.__dict__['statistics_methods'] = {'mean': torch.Size}
    path = tmp_path / 'a.pth'
    with monkeypatch.context() as patch:
        patch.setattr(HistoryBuffer, '__getstate__', lambda self: self.__dict__)
        torch.save(dict(x=buffer), path)
    torch.load(path, weights_only=False)
    assert registry['mean'] is torch.Size  # or there would be nothing to test
    registry.update(before)
    ckpt.load_checkpoint_file(path)
    assert registry == before


def test_raw_pickle_is_not_executed(tmp_path):
    marker, path = tmp_path / 'pwned', tmp_path / 'a.pkl'
    path.write_bytes(pickle.dumps(Exploit(str(marker))))
    with pytest.raises(ValueError):
        ckpt.load_checkpoint_file(path)
    assert not marker.exists()


def test_url_without_network(monkeypatch, tmp_path):
    def fail(*args, **kwargs):
        raise OSError('no route')

    monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path))
    monkeypatch.setattr(ckpt, 'download', fail)
    with pytest.raises(FileNotFoundError, match='cannot be downloaded .no route.'):
        ckpt.load_checkpoint_file('https://example.org/weights.pth')


def test_url_is_kept(monkeypatch, tmp_path):
    calls = []

    def fetch(url, path, digits):
        calls.append(url)
        path.parent.mkdir(exist_ok=True)
        torch.save(dict(w=torch.ones(1)), path)

    monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path))
    monkeypatch.setattr(ckpt, 'download', fetch)
    for _ in range(2):
        content = ckpt.load_checkpoint_file('https://example.org/weights.pth?x=1')
        assert content['w'].item() == 1
    assert len(calls) == 1


def save_epochs(folder, *epochs):
    for epoch in epochs:
        torch.save(dict(w=torch.randn(500)), folder / f'epoch_{epoch}.pth')
        (folder / 'last_checkpoint').write_text(str(folder / f'epoch_{epoch}.pth'))


def damage(path, how):
    content = bytearray(path.read_bytes())
    if how == 'truncated':
        content = content[:-100]
    elif how == 'empty':
        content = b''
    else:
        content[len(content) // 2] ^= 0xFF  # one byte of the tensor
    path.write_bytes(content)


def test_latest_checkpoint(tmp_path):
    assert ckpt.find_latest_checkpoint(tmp_path) is None
    save_epochs(tmp_path, 2, 9, 10)
    assert ckpt.find_latest_checkpoint(tmp_path) == str(tmp_path / 'epoch_10.pth')


@pytest.mark.parametrize('how', ['truncated', 'empty', 'altered'])
def test_damaged_latest_is_passed_over(tmp_path, how):
    save_epochs(tmp_path, 2, 9, 10)
    damage(tmp_path / 'epoch_10.pth', how)
    assert ckpt.find_latest_checkpoint(tmp_path) == str(tmp_path / 'epoch_9.pth')


def test_all_damaged_is_an_error(tmp_path):
    save_epochs(tmp_path, 1)
    damage(tmp_path / 'epoch_1.pth', 'truncated')
    with pytest.raises(ValueError, match='All checkpoints in .* are damaged'):
        ckpt.find_latest_checkpoint(tmp_path)


@pytest.mark.parametrize('record', ['', 'gone/epoch_7.pth', None])
def test_useless_record_does_not_lose_the_run(tmp_path, record):
    """Killed before the record was written, or the work dir was moved."""
    save_epochs(tmp_path, 1, 3)
    if record is None:
        (tmp_path / 'last_checkpoint').unlink()
    else:
        (tmp_path / 'last_checkpoint').write_text(record)
    assert ckpt.find_latest_checkpoint(tmp_path) == str(tmp_path / 'epoch_3.pth')


def test_a_newer_file_than_the_record_is_resumed(tmp_path):
    """Killed between the rename of a checkpoint and the move of the record."""
    save_epochs(tmp_path, 1, 2, 3)
    record = tmp_path / 'last_checkpoint'
    record.write_text(str(tmp_path / 'epoch_2.pth'))
    assert ckpt.find_latest_checkpoint(tmp_path) == str(tmp_path / 'epoch_3.pth')
    damage(tmp_path / 'epoch_3.pth', 'altered')
    assert ckpt.find_latest_checkpoint(tmp_path) == str(tmp_path / 'epoch_2.pth')


def test_a_file_of_an_older_run_is_not(tmp_path):
    """A run that was begun anew in the folder of one that had come further."""
    save_epochs(tmp_path, 10, 1, 2)
    for number, epoch in enumerate((10, 1, 2)):
        os.utime(tmp_path / f'epoch_{epoch}.pth', (1000 + number, 1000 + number))
    assert ckpt.find_latest_checkpoint(tmp_path) == str(tmp_path / 'epoch_2.pth')


def test_epochs_and_iterations_are_compared_by_content(tmp_path):
    """Also in files of a stock runner, which hold mmengine's histories."""
    history = HistoryBuffer([1.0], [1])
    for name, number in (('epoch_1', 100), ('iter_150', 150), ('epoch_2', 200)):
        content = dict(meta=dict(iter=number), message_hub=dict(loss=history))
        torch.save(content, tmp_path / f'{name}.pth')
    assert ckpt.find_latest_checkpoint(tmp_path) == str(tmp_path / 'epoch_2.pth')
    (tmp_path / 'last_checkpoint').write_text('iter_150.pth')
    assert ckpt.find_latest_checkpoint(tmp_path) == str(tmp_path / 'epoch_2.pth')
    damage(tmp_path / 'epoch_2.pth', 'truncated')
    assert ckpt.find_latest_checkpoint(tmp_path) == str(tmp_path / 'iter_150.pth')


@pytest.mark.parametrize('damaged', [False, True])
@pytest.mark.parametrize('gone', [False, True])
def test_a_copied_folder_resumes_from_its_own_files(tmp_path, damaged, gone):
    """The record names a file of the original."""
    original, copied = tmp_path / 'a', tmp_path / 'b'
    original.mkdir()
    save_epochs(original, 1, 2)
    shutil.copytree(original, copied)
    if damaged:
        damage(original / 'epoch_2.pth', 'empty')
    if gone:
        (copied / 'epoch_2.pth').unlink()
    right = copied / ('epoch_1.pth' if gone else 'epoch_2.pth')
    assert ckpt.find_latest_checkpoint(copied) == str(right)
    for path in copied.glob('*.pth'):
        damage(path, 'empty')
    with pytest.raises(ValueError, match='All checkpoints in ".*b" are damaged'):
        ckpt.find_latest_checkpoint(copied)


def test_checkpoints_in_another_folder_are_found(tmp_path):
    """As the hook's ``out_dir`` has it."""
    work_dir, out_dir = tmp_path / 'work', tmp_path / 'out'
    work_dir.mkdir()
    out_dir.mkdir()
    save_epochs(out_dir, 1, 2)
    shutil.move(out_dir / 'last_checkpoint', work_dir)
    assert ckpt.find_latest_checkpoint(work_dir) == str(out_dir / 'epoch_2.pth')


def test_every_flipped_bit_at_the_end_is_passed_over_or_harmless(tmp_path):
    """The directory of an archive stands there; zipfile has many errors for it."""
    content = {'w': torch.arange(4.0)}
    for epoch in (1, 2):
        torch.save(content, tmp_path / f'epoch_{epoch}.pth')
    path = tmp_path / 'epoch_2.pth'
    good = path.read_bytes()
    begin = good.index(b'PK\x01\x02')
    rng = np.random.default_rng(0)
    for position in rng.choice(range(begin, len(good)), 150, replace=False):
        data = bytearray(good)
        data[position] ^= 1 << int(rng.integers(8))
        path.write_bytes(data)
        found = ckpt.find_latest_checkpoint(tmp_path)
        read = ckpt.load_checkpoint_file(found)
        assert torch.equal(read['w'], content['w'])


@pytest.mark.parametrize('trust', [False, True])
def test_every_flipped_bit_of_a_named_file_is_seen_or_harmless(tmp_path, trust):
    """torch itself looks at no checksum."""
    content = {'w': torch.arange(24.0), 'meta': dict(epoch=3, name='a')}
    path = tmp_path / 'epoch_1.pth'
    torch.save(content, path)
    good = path.read_bytes()
    begin = good.index(content['w'].numpy().tobytes())  # in any case
    rng, seen = np.random.default_rng(0), 0
    for position in [begin + 3, *rng.choice(len(good), 150, replace=False)]:
        data = bytearray(good)
        data[position] ^= 1 << int(rng.integers(8))
        path.write_bytes(data)
        try:
            found = ckpt.load_checkpoint_file(path, trust=trust)
        except ValueError as error:
            assert str(path) in str(error) and '\n' not in str(error)
            seen += 1
        else:
            assert torch.equal(found['w'], content['w'])
            assert found['meta'] == content['meta']
    assert seen > 30
    data = bytearray(good)
    data[begin + 3] ^= 0x40
    path.write_bytes(data)
    with pytest.raises(ValueError, match='is damaged: its part ".*data/0" is not what'):
        ckpt.load_checkpoint_file(path, trust=trust)


def test_a_file_of_a_later_version_is_refused_by_its_number(tmp_path):
    path = tmp_path / 'epoch_1.pth'
    weights = dict(w=torch.ones(2))
    for mark in (None, format_mark()):
        torch.save(dict(state_dict=weights, mergevq_mm=mark), path)
        assert ckpt.load_checkpoint_file(path)['state_dict']['w'].tolist() == [1, 1]
    mark = dict(format=FORMAT + 1, version='9.1.0')
    torch.save(dict(state_dict=weights, mergevq_mm=mark), path)
    message = (
        f'has format {FORMAT + 1}, written by mergevq_mm 9.1.0, and this is .* which '
        f'reads formats up to {FORMAT}: install that version'
    )
    with pytest.raises(ValueError, match=message):
        ckpt.load_checkpoint_file(path)
    # An older file would be another run: it is resumed from, and refused.
    assert ckpt.find_latest_checkpoint(tmp_path) == str(path)
    for number in (0, 'x', True, None):
        torch.save(dict(mergevq_mm=dict(format=number)), path)
        with pytest.raises(ValueError, match='which is no number of mergevq_mm'):
            ckpt.load_checkpoint_file(path)


# ------------------------------------------------------------------------- downloads


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A web server on this machine, its folder, and an empty cache of downloads."""
    root = tmp_path / 'www'
    root.mkdir()
    monkeypatch.setattr(torch.hub, '_hub_dir', str(tmp_path / 'hub'))
    monkeypatch.setenv('no_proxy', '127.0.0.1')

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, directory=str(root), **kwargs)

        def log_message(self, *args):
            asked.append(self.path)

    asked = []
    with http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f'http://127.0.0.1:{running.server_port}', root, asked
        running.shutdown()


def test_urls_with_one_name_are_two_files(server):
    url, root, asked = server
    for folder in ('one', 'two'):
        (root / folder).mkdir()
        (root / folder / 'model.bin').write_text(folder)
    paths = [ckpt.fetch_file(f'{url}/{folder}/model.bin') for folder in ('one', 'two')]
    assert [path.read_text() for path in paths] == ['one', 'two']
    assert all(path.suffix == '.bin' for path in paths)
    number = len(asked)
    again = ckpt.fetch_file(f'{url}/one/model.bin')
    assert again == paths[0] and len(asked) == number  # from the disk


def test_digits_in_a_name_are_checked(server):
    url, root, _ = server
    right = hashlib.sha256(b'weights').hexdigest()[:8]
    for name in (f'net-{right}.pth', 'net-01234567.pth', 'net-20230426.pth'):
        (root / name).write_bytes(b'weights')
    path = ckpt.fetch_file(f'{url}/net-{right}.pth')
    assert path.name == f'net-{right}.pth'  # where torch looks for it, too
    with pytest.raises(FileNotFoundError, match='SHA-256 begins.*: give the path'):
        ckpt.fetch_file(f'{url}/net-01234567.pth')
    assert not list(path.parent.glob('net-01234567*'))
    assert ckpt.fetch_file(f'{url}/net-20230426.pth').read_bytes() == b'weights'


def test_an_address_without_a_file(server):
    with pytest.raises(FileNotFoundError, match='404.*: give the path of a local file'):
        ckpt.fetch_file(f'{server[0]}/model.pth')
