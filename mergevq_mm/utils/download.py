"""Files behind addresses: with an end to waiting and to what a server may send."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

# Seconds that a server may be silent, and bytes a second that it must reach after them.
PATIENCE = 20.0
SLOWEST = 4096
# Bytes of the largest file of weights.
LARGEST = 64 * 2**30


def read_address(
    address: str, limit: int, patience: float | None = None
) -> Iterator[bytes]:
    """Read what an address answers, piece by piece.

    Args:
        address (str): With http or https.
        limit (int): Bytes at which it is given up.
        patience (float, optional): Seconds that the server may be silent. Defaults to
            None, :data:`PATIENCE`.

    Yields:
        bytes: The pieces in order; together all that was announced.

    Raises:
        ValueError: If the address is of another kind, or answers with more than
            ``limit`` bytes.
        OSError: If it cannot be reached, is silent or too slow, or breaks off.
    """
    from http.client import HTTPException
    from urllib.request import Request, urlopen

    if not address.startswith(('http://', 'https://')):
        raise ValueError(f'address={address!r} must begin with http:// or https://.')
    patience = PATIENCE if patience is None else patience
    begin, received = time.monotonic(), 0
    request = Request(address, headers={'User-Agent': 'mergevq_mm'})
    try:
        with urlopen(request, timeout=patience) as answer:
            announced = answer.length
            while piece := answer.read1(2**20):
                received += len(piece)
                if max(received, announced or 0) > limit:
                    raise ValueError(
                        f'"{address}" answers with more than {limit:,} bytes, the '
                        'largest that is taken; give the path of a local file.'
                    )
                late = time.monotonic() - begin - patience
                if late > received / SLOWEST:
                    raise TimeoutError(f'only {received:,} bytes came in {late:.0f} s')
                yield piece
    except HTTPException as error:
        raise OSError(f'{type(error).__name__}: {error}') from error
    if announced is not None and received != announced:
        raise OSError(f'only {received:,} of {announced:,} bytes came')


def download(address: str, path: str | os.PathLike, digits: str | None = None) -> None:
    """Fetch a file; it is there whole, or not at all.

    Args:
        address (str): With http or https.
        path (str | PathLike): Where to. Missing folders are made.
        digits (str, optional): First hexadecimal digits of its SHA-256. Defaults to
            None, which compares nothing.

    Raises:
        ValueError: If the file has other digits or more than :data:`LARGEST` bytes.
        OSError: If it cannot be fetched or written.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    sha256 = hashlib.sha256()
    descriptor, part = tempfile.mkstemp('.part', path.name + '.', path.parent)
    try:
        with os.fdopen(descriptor, 'wb') as file:
            for piece in read_address(address, LARGEST):
                sha256.update(piece)
                file.write(piece)
        if digits and not sha256.hexdigest().startswith(digits):
            raise ValueError(
                f'its SHA-256 begins with {sha256.hexdigest()[:8]}, not {digits}'
            )
        os.chmod(part, 0o644)  # as other files are; mkstemp lets its owner alone read
        os.replace(part, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(part)
