"""What the decoder of token files refuses, in a sentence."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tiny_mergevq as tiny
import torch
from PIL import Image

from mergevq_mm.apis import DecodingInferencer
from mergevq_mm.apis.token_file import TokenFile, pack


@pytest.fixture(scope='module')
def decode() -> DecodingInferencer:
    torch.manual_seed(0)
    return DecodingInferencer(
        tiny.build_model().eval(), device='cpu', show_progress=False
    )


def _file(
    decode: DecodingInferencer,
    keep: int = 3,
    grid: tuple[int, int] = (4, 4),
    bits: int = tiny.BITS,
) -> bytes:
    return pack(
        TokenFile(np.arange(keep), None, grid, bits, decode.fingerprint),
    )


@pytest.mark.parametrize('grid', [(1, 2), (7, 1), (5, 3)])
def test_any_grid_is_decoded(decode: DecodingInferencer, grid: tuple[int, int]) -> None:
    image = decode(_file(decode, 1, grid))[0]['image']
    assert image.shape == (2 * grid[0], 2 * grid[1], 3)


def test_bits_of_another_tokenizer(decode: DecodingInferencer) -> None:
    with pytest.raises(ValueError, match='codes of 7 bits, .* this tokenizer have 6'):
        decode(_file(decode, bits=7))


def test_a_single_position(decode: DecodingInferencer) -> None:
    with pytest.raises(ValueError, match='a single position; encode a larger image'):
        decode(_file(decode, 1, (1, 1)))


@pytest.mark.parametrize(
    'item',
    [np.zeros((4, 4, 3), np.uint8), torch.zeros(3, 4, 4), Image.new('L', (4, 4))],
)
def test_what_is_no_token_file(decode: DecodingInferencer, item: object) -> None:
    with pytest.raises(ValueError, match='which is no token file; give paths'):
        decode([_file(decode), item])


def test_paths_that_cannot_be_read(decode: DecodingInferencer, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match='cannot be read .*the encode command wrote'):
        decode('https://127.0.0.1/cat.mvq')
    (tmp_path / 'a.mvq').write_bytes(_file(decode))
    (tmp_path / 'b.mvq').write_bytes(b'')
    with pytest.raises(ValueError, match='b.mvq" is no token file'):
        decode([str(tmp_path / 'a.mvq'), str(tmp_path / 'b.mvq')])


def test_a_batch_has_no_more_positions_than_the_largest_file(
    decode: DecodingInferencer,
) -> None:
    large, small = _file(decode, 1, (60, 60)), _file(decode, 1, (4, 4))
    files = [(str(i), large) for i in range(5)] + [(str(i), small) for i in range(9)]
    sizes = [len(batch) for batch in decode.preprocess(files, 8)]
    assert sizes == [2, 2, 1, 8, 1]
