"""Checkpoint files: read without running code, and found again after a crash.

Files are read with ``weights_only=True``, so that a checkpoint cannot run code; what
is damaged, foreign or holds pickled objects stops with one sentence.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import logging
import os
import pickle
import re
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Optional, Union
from urllib.parse import urlparse

import numpy as np
import torch
from mmengine.utils import digit_version

TRUST_VARIABLE = 'MERGEVQ_TRUST_CHECKPOINTS'

MapLocation = Optional[Union[str, torch.device]]


def fetch_file(path_or_url: str | os.PathLike) -> Path:
    """Find a file on the disk, or fetch it into torch's hub folder, once a machine.

    A name that ends in eight digits of its content's SHA-256, such as
    'vgg16-397923af.pth', is checked against them and kept as it is. Any other one gets
    a hash of its URL: two servers may both have a 'model.safetensors'.

    Args:
        path_or_url (str | PathLike): Path or URL of a file.

    Returns:
        Path: The file on the disk.

    Raises:
        FileNotFoundError: If there is no such file, or it cannot be fetched.
    """
    name = str(path_or_url)
    if not name.startswith(('http://', 'https://')):
        path = Path(name).expanduser()
        if not path.is_file():
            raise FileNotFoundError(
                f'Checkpoint "{name}" does not exist: give the path or URL of a file.'
            )
        return path

    from mmengine.dist import barrier, get_local_rank, is_distributed

    path, digits = _place_in_cache(name)
    problem = None
    if not path.is_file() and (not is_distributed() or get_local_rank() == 0):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(name, str(path), hash_prefix=digits)
        except Exception as error:
            problem = error
    barrier()
    if not path.is_file():
        raise FileNotFoundError(
            f'Checkpoint "{name}" cannot be downloaded ({problem}): give the path of '
            'a local file.'
        ) from problem
    return path


def _place_in_cache(url: str) -> tuple[Path, str | None]:
    """Where a URL's file is kept, and the first digits of its SHA-256 if known."""
    name = Path(urlparse(url).path).name
    match = re.search(r'-([0-9a-f]{8})\.\w+$', name)
    digits = match and match.group(1)
    if digits and re.fullmatch(r'(19|20)\d{6}', digits):
        digits = None  # a date, such as 20230426
    if not digits:
        stem, suffix = os.path.splitext(name)
        mark = hashlib.sha256(url.encode()).hexdigest()[:12]
        name = f'{stem}-url{mark}{suffix}'
    return Path(torch.hub.get_dir(), 'checkpoints', name), digits


def load_checkpoint_file(
    path_or_url: str | os.PathLike,
    map_location: MapLocation = 'cpu',
    trust: bool = False,
) -> dict[str, Any]:
    """Read a checkpoint without running code from it.

    Args:
        path_or_url (str | PathLike): A ``.pth`` or ``.safetensors`` file, or the URL
            of one (kept in torch's hub folder).
        map_location (str | torch.device, optional): Where tensors go. Defaults to
            'cpu'.
        trust (bool): Whether to unpickle arbitrary objects, which runs whatever code
            the file holds. The variable ``MERGEVQ_TRUST_CHECKPOINTS=1`` means the
            same for loads from configs. Defaults to False.

    Returns:
        dict[str, Any]: The content of the file.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is damaged, foreign, or holds objects and is not
            trusted.
    """
    path = fetch_file(path_or_url)
    trust = trust or os.environ.get(TRUST_VARIABLE, '') not in ('', '0')
    if path.suffix == '.safetensors':
        content = _read_safetensors(path, map_location)
    else:
        content = _read_torch(path, map_location, trust)
    if not isinstance(content, Mapping):
        raise ValueError(
            f'Checkpoint "{path}" holds a {type(content).__name__} where a dict of '
            'tensors is needed: give a file of weights.'
        )
    return content


def _read_safetensors(path: Path, map_location: MapLocation) -> dict[str, Any]:
    """Read a ``.safetensors`` file."""
    try:
        from safetensors.torch import load_file
    except ImportError as error:
        raise ValueError(
            f'Reading "{path}" needs the package safetensors: pip install safetensors.'
        ) from error
    try:
        return load_file(path, device=str(map_location or 'cpu'))
    except Exception as error:
        raise ValueError(_damaged(path, error)) from error


def _read_torch(path: Path, map_location: MapLocation, trust: bool) -> Any:
    """Read a file of ``torch.save``."""
    if not _is_torch_file(path):
        raise ValueError(
            f'"{path}" is no PyTorch checkpoint or is truncated '
            f'({path.stat().st_size} bytes): give another file.'
        )
    try:
        if trust:
            return torch.load(path, map_location=map_location, weights_only=False)
        with _harmless_globals():
            return torch.load(path, map_location=map_location, weights_only=True)
    except Exception as error:
        text = str(error)
        if 'weights_only' in text or 'Weights only load failed' in text:
            found = re.search(r'GLOBAL ([\w.]+)', text)
            what = f' ({found.group(1)})' if found else ''
            raise ValueError(
                f'Checkpoint "{path}" holds pickled objects{what}, which can run '
                'code when loaded: convert it to plain tensors, or, if you trust its '
                f'author, set {TRUST_VARIABLE}=1 (or trust=True).'
            ) from None
        raise ValueError(_damaged(path, error)) from error


def _damaged(path: Path, error: Exception) -> str:
    """Word the message for a file that cannot be read to its end."""
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    return (
        f'Checkpoint "{path}" ({path.stat().st_size} bytes) is damaged: {reason}; '
        'use another one.'
    )


def _is_torch_file(path: Path) -> bool:
    """Tell zip archives and legacy pickles from everything else."""
    if zipfile.is_zipfile(path):
        return True
    with open(path, 'rb') as file:
        return file.read(1) == b'\x80'


@contextlib.contextmanager
def _harmless_globals() -> Iterator[None]:
    """Allow numpy arrays, ``argparse.Namespace`` and mmengine's ``HistoryBuffer``.

    The first two are common in published weights, the last one stands in whatever a
    stock runner of mmengine saves. None of them can call anything: ``getattr``, with
    which a file could reach everything, is answered by :func:`_history_method`.
    """
    if digit_version(torch.__version__) < digit_version('2.6'):
        yield  # has no list of renamed globals
        return
    from mmengine.logging import HistoryBuffer  # heavy, and this room is light

    dtypes = [np.dtype(code).__class__ for code in '?bhilqBHILQefdU']
    allowed = [np.ndarray, np.dtype, argparse.Namespace, *dict.fromkeys(dtypes)]
    for value in (np.empty(0), np.float64(0)):
        function = value.__reduce__()[0]  # what rebuilds an array, or a scalar
        for package in ('core', '_core'):  # numpy 1 and 2 name its module otherwise
            name = f'numpy.{package}.multiarray.{function.__name__}'
            allowed.append((function, name))
    allowed += [HistoryBuffer, (_history_method, 'builtins.getattr')]
    # A buffer registers methods for all buffers, read from a file as well: not to stay.
    registry = HistoryBuffer()._statistics_methods
    methods = dict(registry)
    try:
        with torch.serialization.safe_globals(allowed):
            yield
    finally:
        registry.clear()
        registry.update(methods)


def _history_method(owner: Any, name: str) -> Callable:
    """Stand for ``getattr`` in a file: it finds the statistics of a buffer alone."""
    from mmengine.logging import HistoryBuffer

    if owner is HistoryBuffer and name in ('min', 'max', 'current', 'mean'):
        return HistoryBuffer.__dict__[name]
    raise pickle.UnpicklingError(f'GLOBAL builtins.getattr of {owner!r} and {name!r}')


def load_from_local(filename: str, map_location: MapLocation = None) -> dict:
    """Load a local file for mmengine's ``CheckpointLoader``."""
    return load_checkpoint_file(filename, map_location)


def load_from_http(filename: str, map_location: MapLocation = None) -> dict:
    """Load a URL for mmengine's ``CheckpointLoader``."""
    return load_checkpoint_file(filename, map_location)


def find_latest_checkpoint(path: str | os.PathLike) -> str | None:
    """Find the newest checkpoint of a run that is whole.

    Replaces mmengine's function of this name, which trusts ``last_checkpoint`` even
    if the run was killed while it wrote the file named there.

    Args:
        path (str | PathLike): The run's ``work_dir``.

    Returns:
        str | None: Path of the checkpoint; None if the run has saved none.

    Raises:
        ValueError: If there are checkpoints and all of them are damaged.
    """
    from mmengine.logging import print_log

    candidates, folder = [], Path(path)
    record = folder / 'last_checkpoint'
    if record.is_file():
        last = record.read_text().strip()
        if '://' in last:
            return last  # not on this machine's disk
        if last:
            # A work_dir may have been moved, or be named from another directory.
            named = Path(last) if Path(last).is_file() else folder / Path(last).name
            candidates, folder = [named], named.parent
    others = [p for p in folder.glob('*.pth') if re.match(r'(epoch|iter)_\d+', p.name)]
    others.sort(key=_progress(others), reverse=True)
    candidates += [p for p in others if p not in candidates]
    for candidate in candidates:
        if is_whole(candidate):
            return str(candidate)
        print_log(
            f'Checkpoint "{candidate}" is missing or damaged: trying an older one.',
            logger='current',
            level=logging.WARNING,
        )
    if others:
        raise ValueError(
            f'All checkpoints in "{folder}" are damaged: remove them to start anew.'
        )
    print_log(f'No checkpoint to resume from in "{folder}".', logger='current')
    return None


def _progress(paths: list[Path]) -> Callable[[Path], int]:
    """How far a checkpoint is: by its name or, where names count both, its content."""
    kinds = {path.name.split('_')[0] for path in paths}

    def progress(path: Path) -> int:
        number = int(re.findall(r'\d+', path.name)[0])
        if len(kinds) == 1 or path.name.startswith('iter_'):
            return number
        try:  # an epoch beside iterations: a run that was stopped within an epoch
            content = torch.load(path, 'meta', weights_only=True, mmap=True)
            return int(content['meta']['iter'])
        except Exception:  # damaged or foreign: last
            return -1

    return progress


def is_whole(path: str | os.PathLike) -> bool:
    """Tell whether a checkpoint file can be read to its end.

    Reads the file once and compares the checksums that ``torch.save`` stores;
    unpickles nothing.

    Args:
        path (str | PathLike): The file.

    Returns:
        bool: False if it is missing, truncated or altered.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except (OSError, zipfile.BadZipFile, EOFError, zlib.error):
        return False
