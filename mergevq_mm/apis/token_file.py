"""An image as a small file: codes of exactly their bits, and the source map.

Layout, little-endian::

    4s  magic 'MVQT'        B  version        B  bits of a code     B  flags
    H   rows                H  columns        I  tokens K           I  bytes of the map
    16s first half of the tokenizer's fingerprint
    codes, K·bits bits      map, as many bytes as said              I  CRC-32 of it all

Tokens are numbered by the first raster position that they stand for. So a position
belongs to one of the tokens that have begun, or begins the next one; and where only as
many positions are left as tokens have to begin, it has to begin one. The map is one
number whose digits are those choices: never more than L·log2 K bits, nothing for K = L.

Reading believes nothing that a file says of itself: sizes are compared with the limits
below before anything is made of them, and only that counts as a file which is, bit by
bit, what :func:`pack` writes of its tokens.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .preparation import MAX_POSITIONS

MAGIC, VERSION = b'MVQT', 1
ENDING = '.mvq'
FINGERPRINT_BYTES = 16
_HEADER = struct.Struct(f'<4sBBBHHII{FINGERPRINT_BYTES}s')
_CHECK = struct.Struct('<I')
_WITH_MAP = 1

MAX_BITS = 24  # as of LFQ
MAX_BYTES = (
    _HEADER.size
    + MAX_POSITIONS * (MAX_BITS + MAX_POSITIONS.bit_length()) // 8
    + _CHECK.size
)


@dataclass(frozen=True)
class TokenFile:
    """What such a file says.

    Attributes:
        index (np.ndarray): Codes of the K tokens, int64.
        group (np.ndarray, optional): Token of each raster position, L int64; None where
            the tokenizer is to predict it.
        grid (tuple[int, int]): Rows and columns, rows * columns = L.
        bits (int): Of a code.
        fingerprint (str): Of the tokenizer, hexadecimal; a file keeps the first half.
    """

    index: np.ndarray
    group: np.ndarray | None
    grid: tuple[int, int]
    bits: int
    fingerprint: str

    @property
    def code_bits(self) -> int:
        """int: Bits of the codes."""
        return len(self.index) * self.bits

    @property
    def map_bits(self) -> int:
        """int: Bits of the map, in whole bytes; 0 where it is left out."""
        return 0 if self.group is None else 8 * len(pack_map(self.group))


def pack(tokens: TokenFile) -> bytes:
    """Write the tokens of an image.

    Args:
        tokens (TokenFile): The tokens.

    Returns:
        bytes: The content of a file.

    Raises:
        ValueError: If they do not fit each other.
    """
    _check(tokens)
    packed = b'' if tokens.group is None else pack_map(tokens.group)
    header = _HEADER.pack(
        MAGIC,
        VERSION,
        tokens.bits,
        0 if tokens.group is None else _WITH_MAP,
        *tokens.grid,
        len(tokens.index),
        len(packed),
        bytes.fromhex(tokens.fingerprint)[:FINGERPRINT_BYTES],
    )
    content = header + pack_codes(tokens.index, tokens.bits) + packed
    return content + _CHECK.pack(zlib.crc32(content))


def unpack(content: bytes, name: str = 'The file') -> TokenFile:
    """Read the tokens of an image.

    Args:
        content (bytes): Of :func:`pack`.
        name (str): What errors call it. Defaults to 'The file'.

    Returns:
        TokenFile: The tokens.

    Raises:
        ValueError: If it is no such file, a newer one, or a damaged one.
    """
    if content[: len(MAGIC)] != MAGIC:
        raise ValueError(
            f'{name} is no token file; give one that the encode command wrote.'
        )
    damaged = ValueError(f'{name} is damaged; encode the image again.')
    if not _HEADER.size + _CHECK.size <= len(content) <= MAX_BYTES:
        raise damaged
    _, version, bits, flags, *grid, keep, map_bytes, fingerprint = _HEADER.unpack_from(
        content
    )
    if version != VERSION:
        raise ValueError(
            f'{name} has version {version} of the format, where this program reads '
            f'{VERSION}; use a newer mergevq_mm.'
        )
    if _CHECK.unpack(content[-_CHECK.size :])[0] != zlib.crc32(content[: -_CHECK.size]):
        raise damaged
    _check_sizes(name, grid, keep, bits)
    middle = _HEADER.size + (keep * bits + 7) // 8
    end = len(content) - _CHECK.size
    if middle + map_bytes != end:
        raise damaged
    index = unpack_codes(content[_HEADER.size : middle], keep, bits)
    group = None
    if flags & _WITH_MAP:
        group = unpack_map(content[middle:end], keep, grid[0] * grid[1])
    tokens = TokenFile(index, group, tuple(grid), bits, fingerprint.hex())
    if pack(tokens) != content:
        raise ValueError(
            f'{name} is not what its own tokens make: flags, unused bits or the length '
            'of the map are wrong; encode the image again.'
        )
    return tokens


def read_token_file(path: str | os.PathLike[str]) -> TokenFile:
    """Read the tokens of an image from a file.

    Args:
        path (str | PathLike): A regular file, no pipe, which might never end.

    Returns:
        TokenFile: The tokens.

    Raises:
        ValueError: If it cannot be read or is no such file, see :func:`unpack`.
    """
    try:
        if not Path(path).is_file():
            raise FileNotFoundError('no file on this machine')
        with open(path, 'rb') as file:
            content = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        raise ValueError(
            f'"{path}" cannot be read ({error}); give a file that the encode command '
            'wrote.'
        ) from error
    return unpack(content, f'"{path}"')


def header_bits() -> int:
    """Bits of header and checksum."""
    return 8 * (_HEADER.size + _CHECK.size)


def pack_codes(index: np.ndarray, bits: int) -> bytes:
    """Codes of ``bits`` bits each, the lowest first, without gaps."""
    shift = np.arange(bits)
    spread = (np.asarray(index, dtype=np.int64)[:, None] >> shift) & 1  # K×bits
    return np.packbits(spread.astype(np.uint8).ravel(), bitorder='little').tobytes()


def unpack_codes(packed: bytes, keep: int, bits: int) -> np.ndarray:
    """Undo :func:`pack_codes`: K int64."""
    raw = np.frombuffer(packed, dtype=np.uint8)
    spread = np.unpackbits(raw, count=keep * bits, bitorder='little')
    return spread.reshape(keep, bits).astype(np.int64) @ (1 << np.arange(bits))


def pack_map(group: np.ndarray) -> bytes:
    """A source map as one number in a mixed radix.

    Args:
        group (np.ndarray): Token of each raster position, L integers, numbered by
            first occurrence.

    Returns:
        bytes: Little-endian; as many as the largest number of such choices needs.

    Raises:
        ValueError: If the tokens are numbered otherwise.
    """
    digits = [int(number) for number in group]
    keep = max(digits) + 1
    value, span = 0, 1
    # From the last position to the first, so that reading begins with the first.
    for digit, (base, radix) in reversed(list(zip(digits, _choices(digits, keep)))):
        if not 0 <= digit - base < radix:
            raise ValueError(
                'group is not numbered by first raster occurrence; renumber it with '
                'mergevq_mm.models.utils.group_map.raster_order.'
            )
        value, span = value * radix + digit - base, span * radix
    return value.to_bytes(((span - 1).bit_length() + 7) // 8, 'little')


def unpack_map(packed: bytes, keep: int, length: int) -> np.ndarray:
    """Undo :func:`pack_map`: L int64."""
    value = int.from_bytes(packed, 'little')
    group: list[int] = []
    begun = 0
    for position in range(length):
        base, radix = _choice(begun, keep, length - position)
        value, digit = divmod(value, radix)
        group.append(base + digit)
        begun = max(begun, group[-1] + 1)
    return np.array(group, dtype=np.int64)


def _choice(begun: int, keep: int, left: int) -> tuple[int, int]:
    """First token that a position may belong to, and how many there are."""
    if keep - begun == left:
        return begun, 1
    return 0, min(begun + 1, keep)


def _choices(group: list[int], keep: int) -> Iterator[tuple[int, int]]:
    """The choice at each position."""
    begun = 0
    for position, token in enumerate(group):
        yield _choice(begun, keep, len(group) - position)
        begun = max(begun, token + 1)


def _check(tokens: TokenFile) -> None:
    """Refuse tokens that no file could give back."""
    index, group = np.asarray(tokens.index), tokens.group
    if index.ndim != 1 or not np.issubdtype(index.dtype, np.integer):
        raise ValueError(
            f'index of shape {index.shape} and type {index.dtype} is not the codes of '
            'an image; give K whole numbers.'
        )
    _check_sizes('The image', tokens.grid, len(index), tokens.bits)
    if index.min() < 0 or index.max() >= 2**tokens.bits:
        raise ValueError(
            f'index holds codes outside of the {tokens.bits} bits of the tokenizer; '
            'give those that its encoder made.'
        )
    if group is None:
        return
    group, (rows, columns) = np.asarray(group), tokens.grid
    if group.shape != (rows * columns,) or group.max() + 1 != len(index):
        raise ValueError(
            f'group of shape {group.shape} with tokens up to {group.max(initial=0)} '
            f'does not fit {len(index)} codes on a grid of {rows}x{columns}; give the '
            'map that came with the codes.'
        )


def _check_sizes(name: str, grid: Sequence[int], keep: int, bits: int) -> None:
    """Refuse sizes that no image of a tokenizer has, before anything is made of them.

    Args:
        name (str): Of the file or image, for errors.
        grid (Sequence[int]): Rows and columns.
        keep (int): K.
        bits (int): Of a code.

    Raises:
        ValueError: If one is out of range.
    """
    rows, columns = grid
    length = rows * columns
    if min(rows, columns) < 1 or length > MAX_POSITIONS:
        raise ValueError(
            f'{name} has a grid of {rows}x{columns}, where a token file has 1 to '
            f'{MAX_POSITIONS:,} positions; encode an image of so many.'
        )
    if not 1 <= keep <= length:
        raise ValueError(
            f'{name} has {keep} tokens for {length} positions, where there are 1 to '
            f'{length}; encode the image again.'
        )
    if not 1 <= bits <= MAX_BITS:
        raise ValueError(
            f'{name} has codes of {bits} bits, where tokenizers have 1 to {MAX_BITS}; '
            'encode the image again.'
        )
