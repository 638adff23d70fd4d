"""Token files: every bit, every choice of the map, and what is refused."""

from __future__ import annotations

import itertools
import math
import os
import time
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mergevq_mm.apis import token_file
from mergevq_mm.apis.token_file import (
    MAX_BYTES,
    MAX_POSITIONS,
    TokenFile,
    pack,
    pack_map,
    read_token_file,
    unpack,
    unpack_map,
)
from mergevq_mm.models.utils.group_map import raster_order

PRINT = '00ff' * 16


def _example(
    keep: int = 5, grid: tuple[int, int] = (3, 4), bits: int = 18
) -> TokenFile:
    rng = np.random.default_rng(keep)
    length = grid[0] * grid[1]
    raw = np.concatenate([np.arange(keep), rng.integers(0, keep, length - keep)])
    group = raster_order(torch.from_numpy(rng.permutation(raw))[None], keep)[0][0]
    index = rng.integers(0, 2**bits, keep)
    return TokenFile(index, group.numpy(), grid, bits, PRINT)


@pytest.mark.parametrize('bits', [1, 7, 8, 13, 18])
@pytest.mark.parametrize('keep', [1, 2, 5, 11, 12])
def test_round_trip(keep: int, bits: int) -> None:
    tokens = _example(keep, bits=bits)
    content = pack(tokens)
    back = unpack(content)
    assert back.index.dtype == np.int64 and back.index.tolist() == tokens.index.tolist()
    assert back.group.tolist() == tokens.group.tolist()
    assert (back.grid, back.bits) == ((3, 4), bits)
    assert back.fingerprint == PRINT[:32]
    size = token_file.header_bits() + 8 * math.ceil(keep * bits / 8) + tokens.map_bits
    assert 8 * len(content) == size and tokens.code_bits == keep * bits


def test_codes_lie_bit_by_bit() -> None:
    """Two codes of 18 bits: bit j of code i is bit 18i + j of the bytes."""
    packed = token_file.pack_codes(np.array([0b1, 1 << 17]), 18)
    assert int.from_bytes(packed, 'little') == 1 | 1 << 35 and len(packed) == 5
    value = int.from_bytes(
        token_file.pack_codes(np.array([99, 2**18 - 1]), 18), 'little'
    )
    assert value == 99 + ((2**18 - 1) << 18)


def test_each_map_of_six_positions_has_its_own_number() -> None:
    """All maps of L = 6 and each K, against a list of them: bytes as few as they go."""
    for keep in range(1, 7):
        maps = [
            m
            for m in itertools.product(range(keep), repeat=6)
            if len(set(m)) == keep and list(dict.fromkeys(m)) == list(range(keep))
        ]
        packed = {
            pack_map(np.array(m)) + bytes([len(pack_map(np.array(m)))]) for m in maps
        }
        assert len(packed) == len(maps)
        for m in maps:
            content = pack_map(np.array(m))
            assert unpack_map(content, keep, 6).tolist() == list(m)
            assert 8 * len(content) <= 6 * math.log2(keep) + 8


def test_no_map_is_needed_where_it_says_nothing() -> None:
    assert pack_map(np.arange(64)) == b'' == pack_map(np.zeros(64, dtype=int))
    assert unpack_map(b'', 64, 64).tolist() == list(range(64))


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 60), st.integers(0, 2**31))
def test_maps_of_any_size(keep: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    raw = np.concatenate([np.arange(keep), rng.integers(0, keep, 100 - keep)])
    group = raster_order(torch.from_numpy(rng.permutation(raw))[None], keep)[0][0]
    content = pack_map(group.numpy())
    assert unpack_map(content, keep, 100).tolist() == group.tolist()
    assert 8 * len(content) <= 100 * math.log2(keep) + 8


def test_without_a_map() -> None:
    tokens = _example()
    tokens = TokenFile(tokens.index, None, tokens.grid, tokens.bits, PRINT)
    back = unpack(pack(tokens))
    assert back.group is None and back.index.tolist() == tokens.index.tolist()
    assert tokens.map_bits == 0


def test_what_is_refused() -> None:
    content = pack(_example())
    with pytest.raises(ValueError, match='"x" is no token file; give'):
        unpack(b'PNG' + content, '"x"')
    for place in range(5, len(content)):  # any damaged byte
        damaged = bytearray(content)
        damaged[place] ^= 4
        with pytest.raises(ValueError, match='damaged'):
            unpack(bytes(damaged))
    for size in (4, 20, len(content) - 1):
        with pytest.raises(ValueError, match='damaged|version'):
            unpack(content[:size])
    with pytest.raises(ValueError, match='version 9 of the format'):
        unpack(content[:4] + b'\x09' + content[5:])
    with pytest.raises(ValueError, match='outside of the 4 bits'):
        pack(TokenFile(np.array([16]), None, (1, 1), 4, PRINT))
    with pytest.raises(ValueError, match='does not fit 2 codes on a grid of 1x3'):
        pack(TokenFile(np.array([1, 2]), np.array([0, 1]), (1, 3), 4, PRINT))
    with pytest.raises(ValueError, match='not numbered by first raster occurrence'):
        pack_map(np.array([1, 0, 0]))


# ---------------------------------------------------------------- files that attack


def forged(
    rows: int,
    columns: int,
    keep: int,
    flags: int,
    bits: int = 18,
    packed: bytes = b'',
    codes: bytes | None = None,
    map_bytes: int | None = None,
) -> bytes:
    """A file with a right checksum that says what it likes."""
    codes = bytes(min((keep * bits + 7) // 8, 999)) if codes is None else codes
    header = token_file._HEADER.pack(
        token_file.MAGIC,
        token_file.VERSION,
        bits,
        flags,
        rows,
        columns,
        keep,
        len(packed) if map_bytes is None else map_bytes,
        bytes.fromhex(PRINT)[:16],
    )
    content = header + codes + packed
    return content + token_file._CHECK.pack(zlib.crc32(content))


def test_forged_files_are_what_they_claim_to_be() -> None:
    """Without a lie the helper writes what `pack` does."""
    tokens = _example()
    codes = token_file.pack_codes(tokens.index, 18)
    content = forged(3, 4, 5, 1, 18, pack_map(tokens.group), codes)
    assert content == pack(tokens)


@pytest.mark.parametrize(
    ('content', 'match'),
    [
        (forged(65535, 65535, 1, 0), 'grid of 65535x65535, where .* 1 to 8,192 pos'),
        (forged(65535, 65535, 2**32 - 1, 1), 'grid of 65535x65535'),
        (forged(8193, 1, 1, 0), 'grid of 8193x1'),
        (forged(3000, 3000, 1, 1), 'grid of 3000x3000'),
        (forged(0, 8, 16, 0), 'grid of 0x8'),
        (forged(8, 0, 16, 1), 'grid of 8x0'),
        (forged(0, 0, 0, 1), 'grid of 0x0'),
        (forged(8, 8, 0, 0), '0 tokens for 64 positions, where there are 1 to 64'),
        (forged(8, 8, 0, 1), '0 tokens for 64 positions'),
        (forged(8, 8, 65, 0), '65 tokens for 64 positions'),
        (forged(8, 8, 2**32 - 1, 1), '4294967295 tokens for 64 positions'),
        (forged(8, 8, 16, 0, 0), 'codes of 0 bits, where tokenizers have 1 to 24'),
        (forged(8, 8, 16, 0, 25), 'codes of 25 bits'),
        (forged(8, 8, 16, 1, 255), 'codes of 255 bits'),
        # The map: too short, too long, a number too large, unasked for, not said.
        (forged(8, 8, 16, 1), 'not what its own tokens make'),
        (forged(8, 8, 16, 1, packed=bytes(60)), 'not what its own tokens make'),
        (forged(8, 8, 1, 1, packed=b'\x01'), 'not what its own tokens make'),
        (forged(2, 2, 2, 1, packed=b'\xff'), 'not what its own tokens make'),
        (forged(2, 2, 2, 0, packed=b'\x00'), 'not what its own tokens make'),
        (forged(2, 2, 2, 1, map_bytes=1), 'is damaged; encode the image again'),
        (forged(8, 8, 16, 1, map_bytes=2**32 - 1), 'is damaged'),
        (forged(8, 8, 16, 0, codes=b''), 'is damaged'),
        # Flags of no meaning; bits that no code uses.
        (forged(8, 8, 16, 2), 'not what its own tokens make: flags, unused bits'),
        (forged(1, 1, 1, 0, 1, codes=b'\x02'), 'not what its own tokens make'),
        (forged(1, 1, 1, 0, codes=bytes(MAX_BYTES)), 'is damaged'),
    ],
)
def test_sizes_are_checked_before_anything_is_made(content: bytes, match: str) -> None:
    tracemalloc.start()
    start = time.perf_counter()
    with pytest.raises(
        ValueError, match=f'^"x" (has a|has|is) ?.*{match}|^"x" {match}'
    ):
        unpack(content, '"x"')
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**23 and time.perf_counter() - start < 2


def test_the_largest_file() -> None:
    """Within the limits everything is read, in a moment."""
    rng = np.random.default_rng(0)
    for keep in (1, MAX_POSITIONS // 2, MAX_POSITIONS):
        raw = np.concatenate([np.arange(keep), rng.integers(0, keep, 8192 - keep)])
        group = raster_order(torch.from_numpy(rng.permutation(raw))[None], keep)[0][0]
        index = rng.integers(0, 2**24, keep)
        content = pack(TokenFile(index, group.numpy(), (64, 128), 24, PRINT))
        assert len(content) <= MAX_BYTES
        start = time.process_time()  # the machine may be busy
        assert unpack(content).group.tolist() == group.tolist()
        assert time.process_time() - start < 2


def _read(content: bytes) -> None:
    """Read it, or be told in a sentence of ours what is wrong."""
    try:
        tokens = unpack(content, '"x"')
    except ValueError as error:
        assert str(error).startswith('"x" '), error
    else:
        assert pack(tokens) == content


_NUMBER = st.one_of(st.integers(0, 12), st.sampled_from([63, 64, 65, 255, 65535]))
_HEADERS = st.tuples(
    _NUMBER,
    _NUMBER,
    st.one_of(_NUMBER, st.sampled_from([8192, 2**31, 2**32 - 1])),
    st.integers(0, 3),
    st.integers(0, 30) | st.just(255),
    st.binary(max_size=40),
)


@settings(max_examples=300, deadline=2000)
@given(_HEADERS, st.none() | st.binary(max_size=40))
def test_any_header_with_a_right_checksum(header: tuple, codes: bytes | None) -> None:
    _read(forged(*header, codes))


@settings(max_examples=300, deadline=2000)
@given(st.data())
def test_any_damage_with_a_right_checksum(data: st.DataObject) -> None:
    """Bits flipped, bytes cut off, put in or doubled, and the checksum made anew."""
    body = bytearray(pack(_example(data.draw(st.integers(1, 12)), bits=7))[:-4])
    place = data.draw(st.integers(0, len(body) - 1))
    kind = data.draw(st.sampled_from(['flip', 'cut', 'insert', 'double', 'nothing']))
    if kind == 'flip':
        body[place] ^= data.draw(st.integers(1, 255))
    elif kind == 'cut':
        del body[place:]
    elif kind == 'insert':
        body[place:place] = data.draw(st.binary(min_size=1, max_size=9))
    elif kind == 'double':
        body += body[place:]
    _read(bytes(body) + token_file._CHECK.pack(zlib.crc32(body)))


@settings(max_examples=100, deadline=2000)
@given(st.binary(max_size=90))
def test_any_bytes(content: bytes) -> None:
    _read(content)
    _read(token_file.MAGIC + b'\x01' + content)


def test_what_is_no_file(tmp_path: Path) -> None:
    pipe, large = tmp_path / 'pipe.mvq', tmp_path / 'large.mvq'
    os.mkfifo(pipe)
    with open(large, 'wb') as file:
        file.write(pack(_example()))
        file.truncate(2**33)  # a hole of 8 GiB
    for path, match in (
        (pipe, 'pipe.mvq" cannot be read .*give a file that the encode'),
        (tmp_path, 'cannot be read'),
        (tmp_path / 'none.mvq', 'none.mvq" cannot be read'),
        ('a\0b', 'cannot be read'),
        (large, 'large.mvq" is damaged'),
    ):
        with pytest.raises(ValueError, match=match):
            read_token_file(path)


@pytest.mark.parametrize(
    ('change', 'match'),
    [
        (dict(index=np.array([], dtype=int)), '0 tokens for 12 positions'),
        (dict(index=np.zeros((5, 1), dtype=int)), r'index of shape \(5, 1\)'),
        (dict(index=np.zeros(5)), 'type float64 is not the codes'),
        (dict(index=np.array([-1, 0, 0, 0, 0])), 'outside of the 18 bits'),
        (dict(index=np.zeros(13, dtype=int), group=None), '13 tokens for 12 positions'),
        (dict(group=np.array([], dtype=int)), r'group of shape \(0,\)'),
        (dict(group=np.zeros((3, 4), dtype=int)), r'group of shape \(3, 4\)'),
        (dict(grid=(0, 4)), 'The image has a grid of 0x4'),
        (dict(grid=(100, 100)), 'encode an image of so many'),
        (dict(bits=25), 'codes of 25 bits'),
    ],
)
def test_what_is_not_written(change: dict, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        pack(TokenFile(**{**vars(_example()), **change}))
