"""What a file may name, and what it may not make of it."""

from __future__ import annotations

import argparse
import pickle
import struct
import zipfile
from collections import Counter, OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer

from mergevq_mm.utils import checkpoint_file as ckpt

# -------------------------------------------------------------- pickles, by hand


def name(module: str, attribute: str) -> bytes:
    return f'c{module}\n{attribute}\n'.encode()


def text(value: str) -> bytes:
    raw = value.encode()
    return b'X' + struct.pack('<I', len(raw)) + raw


def number(value: int) -> bytes:
    return b'\x8a\x08' + struct.pack('<q', value)


def call(function: bytes, *arguments: bytes) -> bytes:
    return function + b'(' + b''.join(arguments) + b'tR'


def raw_bytes(value: bytes) -> bytes:
    return call(name('_codecs', 'encode'), text(value.decode('latin1')), text('latin1'))


def dtype(code: str, order: str = '<') -> bytes:
    made = call(name('numpy', 'dtype'), text(code), b'\x89', b'\x88')
    parts = (number(3), text(order), b'NNN', number(-1), number(-1), number(0))
    return made + b'(' + b''.join(parts) + b'tb'


def shape(*sizes: int) -> bytes:
    return b'(' + b''.join(number(n) for n in sizes) + b't'


def array(sizes: bytes, kind: bytes, content: bytes, module: str = 'core') -> bytes:
    begin = call(
        name(f'numpy.{module}.multiarray', '_reconstruct'),
        name('numpy', 'ndarray'),
        shape(0),
        raw_bytes(b'b'),
    )
    state = (number(1), sizes, kind, b'\x89', raw_bytes(content))
    return begin + b'(' + b''.join(state) + b'tb'


def write(path: Path, value: bytes) -> Path:
    """A file of torch with a value of its own."""
    content = b'\x80\x02}' + text('w') + value + b's.'
    writer = torch._C.PyTorchFileWriter(str(path))
    writer.write_record('data.pkl', content, len(content))
    writer.write_record('byteorder', b'little', 6)
    writer.write_end_of_file()
    return path


NDARRAY = name('numpy', 'ndarray')
SCALAR = name('numpy.core.multiarray', 'scalar')
POINTER = raw_bytes(struct.pack('<Q', 0x4141414141414141))
FLOATS = struct.pack('<2f', 1.0, 2.0)


# ----------------------------------------------------------------------- attacks


@pytest.mark.parametrize(
    'value',
    [
        # follow an address: an array of objects over bytes of the file
        call(NDARRAY, call(NDARRAY, shape(1), dtype('O'), POINTER)),
        call(NDARRAY, shape(1), dtype('O'), POINTER),
        NDARRAY + shape(1) + b'\x81',
        array(shape(1), dtype('O', '|'), struct.pack('<Q', 0x4141414141414141)),
        call(SCALAR, dtype('O', '|'), POINTER),
        call(name('numpy._core.multiarray', 'scalar'), dtype('O', '|'), POINTER),
        array(shape(1), dtype('V8', '|'), bytes(8)),
        array(shape(1), call(name('numpy', 'dtype'), text('f8,O')), bytes(16)),
        # read past the end, or ask for what is not there
        array(shape(1024), dtype('f4'), FLOATS),
        array(shape(2), dtype('f8'), FLOATS),
        array(shape(-2), dtype('f4'), FLOATS),
        array(shape(2**40), dtype('f4'), b''),
        array(shape(2**62, 4), dtype('f4'), b''),
        array(shape(2**40), dtype('U0'), b''),
        array(number(2), dtype('f4'), FLOATS),
        call(SCALAR, dtype('f8'), raw_bytes(b'1234')),
        call(
            name('numpy.core.multiarray', 'scalar'), text('f8'), raw_bytes(b'12345678')
        ),
        # states that are none
        dtype('f4', 'x'),
        call(NDARRAY) + number(3) + b'b',
        call(name('mmengine.logging.history_buffer', 'HistoryBuffer')) + b'}b',
        # allocate by a number, grow by a codec
        call(name('builtins', 'bytearray'), number(2**40)),
        call(name('__builtin__', 'bytearray'), number(2**40)),
        call(name('torch', 'FloatTensor'), number(2**34)),
        call(name('torch', 'Tensor'), number(2**34)),
        call(name('_codecs', 'encode'), raw_bytes(b'ab'), text('hex')),
        call(name('_codecs', 'encode'), text('ab'), text('punycode')),
        # indices and offsets that torch believes
        name('torch._utils', '_rebuild_sparse_tensor'),
        name('torch._utils', '_rebuild_nested_tensor'),
        name('torch.sparse', 'FloatTensor'),
        # others of numpy
        call(name('numpy', 'load'), text('/etc/passwd')),
        call(name('numpy.core.multiarray', 'fromfile'), text('/etc/passwd')),
        name('numpy.dtypes', 'ObjectDType'),
    ],
)
def test_attacks_end_with_a_sentence(tmp_path, value):
    path = write(tmp_path / 'evil.pth', value)
    with pytest.raises(ValueError, match='is damaged|holds pickled objects') as caught:
        ckpt.load_checkpoint_file(path)
    assert str(path) in str(caught.value) and '\n' not in str(caught.value)


def test_nothing_of_numpy_can_be_called():
    from mergevq_mm.utils.checkpoint_types import harmless_globals

    with harmless_globals():
        from torch import _weights_only_unpickler as unpickler

        for known in (
            unpickler._get_allowed_globals(),
            unpickler._get_user_allowed_globals(),
        ):
            for value in known.values():
                origin = str(getattr(value, '__module__', ''))
                assert not origin.startswith('numpy')
                assert not (isinstance(value, type) and issubclass(value, np.generic))
    assert 'numpy.ndarray' not in unpickler._get_allowed_globals()
    assert 'numpy.ndarray' not in unpickler._get_user_allowed_globals()


def test_a_tensor_larger_than_its_file(tmp_path):
    path = tmp_path / 'a.pth'
    torch.save({'w': torch.zeros(1).expand(2**40)}, path)
    with pytest.raises(ValueError, match=r'a tensor of shape \(1099511627776,\) in'):
        ckpt.load_checkpoint_file(path)
    torch.save({'w': torch.zeros(1).expand(1000)}, path)
    assert ckpt.load_checkpoint_file(path)['w'].tolist() == [0] * 1000


def test_a_compressed_archive_is_not_unpacked(tmp_path):
    plain, bomb = tmp_path / 'plain.pth', tmp_path / 'bomb.pth'
    torch.save({'w': torch.zeros(2**20)}, plain)
    with (
        zipfile.ZipFile(plain) as source,
        zipfile.ZipFile(bomb, 'w', zipfile.ZIP_DEFLATED) as target,
    ):
        for entry in source.infolist():
            target.writestr(entry.filename, source.read(entry))
    assert bomb.stat().st_size < plain.stat().st_size / 100
    with pytest.raises(ValueError, match=r'is damaged: its \d+ bytes unpack to \d+'):
        ckpt.load_checkpoint_file(bomb)
    assert not ckpt.is_whole(bomb)


def test_lists_that_share_lists_are_walked_once(tmp_path):
    """2^60 ways lead to the number at the end."""
    content = [np.float32(1)]
    for _ in range(60):
        content = [content, content]
    pair = (1, 2)
    for _ in range(60):
        pair = (pair, pair)
    torch.save({'w': content, 'pair': pair}, tmp_path / 'a.pth')
    assert ckpt.load_checkpoint_file(tmp_path / 'a.pth')['w'][0] is not None


# ------------------------------------------------------------------- what is good


@pytest.mark.parametrize('code', ['?', 'b', 'h', 'i', 'q', 'B', 'H', 'I', 'Q', 'e'])
def test_numbers_come_back(tmp_path, code):
    check_arrays(tmp_path, np.array([[1, 0, 3], [4, 5, 6]]).astype(code))


@pytest.mark.parametrize('code', ['f4', 'f8', '>f4', '>i8', 'c8', 'c16', 'U3', 'S2'])
def test_other_arrays_come_back(tmp_path, code):
    check_arrays(tmp_path, np.array([[1, 0, 3], [4, 5, 6]]).astype(code))


def check_arrays(tmp_path, values):
    """As they are, in both orders, empty, as a number, and in containers."""
    content = {
        'plain': values,
        'order': np.asfortranarray(values),
        'empty': values[:0],
        'scalar': values[0, 0],
        'nested': [(values,), {'x': argparse.Namespace(a=values, b=values.dtype)}],
    }
    torch.save(content, tmp_path / 'a.pth')
    read = ckpt.load_checkpoint_file(tmp_path / 'a.pth')
    nested = read['nested'][1]['x']
    for found in (read['plain'], read['order'], read['nested'][0][0], nested.a):
        assert type(found) is np.ndarray and found.dtype == values.dtype
        assert np.array_equal(found, values)
        assert found.flags.owndata and found.flags.writeable
    assert read['order'].flags.f_contiguous and nested.b == values.dtype
    assert read['empty'].shape == (0, 3) and read['empty'].dtype == values.dtype
    scalar = values[0, 0]
    assert read['scalar'].dtype == scalar.dtype and read['scalar'] == scalar


def test_the_other_name_of_numpys_module(tmp_path):
    for module in ('core', '_core'):
        value = array(shape(2), dtype('f4'), FLOATS, module)
        read = ckpt.load_checkpoint_file(write(tmp_path / f'{module}.pth', value))
        assert read['w'].tolist() == [1, 2]


def test_other_plain_content_comes_back(tmp_path):
    parameter = torch.nn.Parameter(torch.ones(2))
    tensor = torch.arange(3.0)
    tensor.note = 'an attribute'
    state = OrderedDict(w=torch.ones(1))
    state._metadata = {'': {'version': 1}}
    history = HistoryBuffer([1.0, 3.0], [1, 2], max_length=7)
    content = {
        'bytes': b'\x00\xff',
        'array': bytearray(b'\x01\xfe'),
        'milestones': Counter({3: 1}),
        'set': {1, (2, 3)},
        'complex': 1 + 2j,
        'size': torch.Size([1, 2]),
        'dtype': torch.bfloat16,
        'bf16': torch.ones(2, dtype=torch.bfloat16),
        'parameter': parameter,
        'tensor': tensor,
        'state': state,
        'history': history,
        'key': {np.int64(3): np.bool_(True)},
    }
    torch.save(content, tmp_path / 'a.pth')
    read = ckpt.load_checkpoint_file(tmp_path / 'a.pth')
    for key in ('bytes', 'array', 'milestones', 'set', 'complex', 'size', 'dtype'):
        assert read[key] == content[key] and type(read[key]) is type(content[key])
    assert read['tensor'].tolist() == [0, 1, 2] and read['key'] == {3: True}
    assert torch.equal(read['parameter'], parameter) and read['bf16'].sum() == 2
    assert read['state']._metadata == state._metadata
    assert read['history']._log_history.tolist() == [1, 3]
    assert read['history'].max_length == 7
    assert read['history'].mean() == history.mean()


def test_a_shared_tensor_stays_shared(tmp_path):
    weight = torch.ones(2)
    torch.save({'a': weight, 'b': [weight]}, tmp_path / 'a.pth')
    read = ckpt.load_checkpoint_file(tmp_path / 'a.pth')
    assert read['a'].data_ptr() == read['b'][0].data_ptr()


def test_protocols_that_torch_does_not_read_are_refused(tmp_path):
    path = tmp_path / 'a.pkl'
    path.write_bytes(pickle.dumps({'w': np.ones(2)}, protocol=4))
    with pytest.raises(ValueError, match='pickled objects|damaged'):
        ckpt.load_checkpoint_file(path)
