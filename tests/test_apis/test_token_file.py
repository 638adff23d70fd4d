"""Token files: every bit, every choice of the map, and what is refused."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mergevq_mm.apis import token_file
from mergevq_mm.apis.token_file import TokenFile, pack, pack_map, unpack, unpack_map
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
