"""Checkpoint files: read without running code, and found again after a crash.

Files are read with ``weights_only=True``, so that a checkpoint cannot run code; what
is damaged, foreign or holds pickled objects stops with one sentence.
"""

from __future__ import annotations

import hashlib
import logging
import os
import pickle
import re
import zipfile
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Optional, Union
from urllib.parse import urlparse

import torch

from .checkpoint_format import MARK, UnusableCheckpoint, check_format
from .checkpoint_types import harmless_globals, revive
from .download import download

TRUST_VARIABLE = 'MERGEVQ_TRUST_CHECKPOINTS'

# How torch reports what a stand-in of ours says.
_OURS = re.compile(r'WeightsUnpickler error: (an? .+)')
_REGULAR = re.compile(r'(epoch|iter)_(\d+)')

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

    from ..base.process import (
        barrier,
        get_local_rank,
        is_distributed,
        print_log,
    )

    path, digits = _place_in_cache(name)
    problem = None
    if not path.is_file() and (not is_distributed() or get_local_rank() == 0):
        print_log(f'Downloading {name} to {path}.', logger='current')
        try:
            download(name, path, digits)
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
        UnusableCheckpoint: If the file is damaged, foreign, of a later version, or
            holds objects and is not trusted; a ValueError.
    """
    path = fetch_file(path_or_url)
    trust = trust or os.environ.get(TRUST_VARIABLE, '') not in ('', '0')
    if path.suffix.lower() == '.safetensors':
        content = _read_safetensors(path, map_location)
    else:
        content = _read_torch(path, map_location, trust)
    if not isinstance(content, Mapping):
        raise UnusableCheckpoint(
            f'Checkpoint "{path}" holds a {type(content).__name__} where a dict of '
            'tensors is needed: give a file of weights.'
        )
    check_format(content.get(MARK), f'Checkpoint "{path}"')
    return content


def _read_safetensors(path: Path, map_location: MapLocation) -> dict[str, Any]:
    """Read a ``.safetensors`` file."""
    try:
        from safetensors.torch import load_file
    except ImportError as error:
        raise UnusableCheckpoint(
            f'Reading "{path}" needs the package safetensors: pip install safetensors.'
        ) from error
    try:
        return load_file(path, device=str(map_location or 'cpu'))
    except Exception as error:
        raise UnusableCheckpoint(damaged(path, error)) from error


def _read_torch(path: Path, map_location: MapLocation, trust: bool) -> Any:
    """Read a file of ``torch.save``."""
    if not _is_torch_file(path):
        raise UnusableCheckpoint(
            f'"{path}" is no PyTorch checkpoint or is truncated '
            f'({path.stat().st_size} bytes): give another file.'
        )
    try:
        if trust:
            _check_sums(path)
            return torch.load(path, map_location=map_location, weights_only=False)
        return _load_plain(path, map_location)
    except Exception as error:
        found = re.search(r'GLOBAL ([\w.]+)', str(error))
        if found or ('weights_only' in str(error) and not _OURS.search(str(error))):
            what = f' ({found.group(1)})' if found else ''
            raise UnusableCheckpoint(
                f'Checkpoint "{path}" holds pickled objects{what}, which can run '
                'code when loaded: convert it to plain tensors, or, if you trust its '
                f'author, set {TRUST_VARIABLE}=1 (or trust=True).'
            ) from None
        raise UnusableCheckpoint(damaged(path, error)) from error


def damaged(path: Path, error: Exception) -> str:
    """Word the message for a file that cannot be read to its end.

    Args:
        path (Path): The file.
        error (Exception): What reading it ended with.

    Returns:
        str: One sentence.
    """
    ours = _OURS.search(str(error))
    lines = ours.group(1) if ours else str(error)
    reason = (lines.splitlines() or [type(error).__name__])[0]
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


def _load_plain(
    path: Path, map_location: MapLocation, mmap: bool = False, verify: bool = True
) -> Any:
    """Load what can do nothing, and takes no more room than its file."""
    size = path.stat().st_size
    if zipfile.is_zipfile(path):  # torch stores, and would unpack a compressed one
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
        if unpacked > size:
            raise ValueError(f'its {size} bytes unpack to {unpacked}')
        if verify:
            _check_sums(path)
    with harmless_globals():
        content = torch.load(path, map_location, weights_only=True, mmap=mmap)
    return revive(content, size)


def _check_sums(path: Path) -> None:
    """Compare an archive with the checksums in it, which torch does not look at.

    Raises:
        ValueError: If a part has changed since it was written. (What cannot be read at
            all has half a dozen errors of zipfile.)
    """
    if not zipfile.is_zipfile(path):
        return  # a pickle of torch before 1.6, which has none
    with zipfile.ZipFile(path) as archive:
        altered = archive.testzip()
    if altered is not None:
        raise ValueError(f'its part "{altered}" is not what was written')


def load_from_local(filename: str, map_location: MapLocation = None) -> dict:
    """Load a local file for mmengine's ``CheckpointLoader``."""
    return load_checkpoint_file(filename, map_location)


def load_from_http(filename: str, map_location: MapLocation = None) -> dict:
    """Load a URL for mmengine's ``CheckpointLoader``."""
    return load_checkpoint_file(filename, map_location)


def find_latest_checkpoint(path: str | os.PathLike) -> str | None:
    """Find the newest checkpoint of a run that is whole.

    Replaces mmengine's function of this name, which trusts ``last_checkpoint``. Here
    that file is a hint: a kill may come before it is moved to a new checkpoint, and in
    a copied folder it names the files of the original.

    Args:
        path (str | PathLike): The run's ``work_dir``.

    Returns:
        str | None: Path of the checkpoint; None if the run has saved none.

    Raises:
        UnusableCheckpoint: If there are checkpoints and all of them are damaged.
    """
    from ..base.process import print_log

    folder, named = Path(path), None
    record = folder / 'last_checkpoint'
    last = record.read_text(errors='replace').strip() if record.is_file() else ''
    if '://' in last:
        return last  # not on this machine's disk
    others = _checkpoints(folder)
    if last:
        named = folder / Path(last).name
        if not others and not named.is_file() and Path(last).is_file():
            named = Path(last)  # the hook's out_dir lies elsewhere
            folder = named.parent
            others = _checkpoints(folder)
    candidates = _newest_first(named, others)
    for candidate in candidates:
        if is_whole(candidate):
            return str(candidate)
        print_log(
            f'Checkpoint "{candidate}" is missing or damaged: trying an older one.',
            logger='current',
            level=logging.WARNING,
        )
    if any(candidate.is_file() for candidate in candidates):
        raise UnusableCheckpoint(
            f'All checkpoints in "{folder}" are damaged: remove them to start anew.'
        )
    print_log(f'No checkpoint to resume from in "{folder}".', logger='current')
    return None


def _checkpoints(folder: Path) -> list[Path]:
    """The regular checkpoints of a folder, those of best metrics left out."""
    return [path for path in folder.glob('*.pth') if _REGULAR.match(path.name)]


def _newest_first(named: Path | None, others: list[Path]) -> list[Path]:
    """Order the checkpoints of a run.

    The one that the run has named last comes first, but for those that are further and
    were written after it. (Further and older ones are of a run that was begun anew.)
    """
    progress = _progress([*others, named] if named else others)
    others = sorted(others, key=progress, reverse=True)
    if named is None:
        return others
    others = [path for path in others if path != named]
    newer = []
    if named.is_file():
        here, now = progress(named), named.stat().st_mtime
        newer = [p for p in others if progress(p) > here and p.stat().st_mtime >= now]
    return [*newer, named, *(path for path in others if path not in newer)]


def _progress(paths: list[Path]) -> Callable[[Path], int]:
    """How far a checkpoint is: by its name or, where names count both, its content."""
    kinds = {match and match[1] for match in (_REGULAR.match(p.name) for p in paths)}

    @cache
    def progress(path: Path) -> int:
        match = _REGULAR.match(path.name)
        if match and (len(kinds) == 1 or match[1] == 'iter'):
            return int(match[2])
        try:  # an epoch beside iterations: a run that was stopped within an epoch
            content = _load_plain(path, 'meta', mmap=True, verify=False)
            return int(content['meta']['iter'])
        except Exception:  # damaged or foreign: last
            return -1

    return progress


def is_whole(path: str | os.PathLike) -> bool:
    """Tell whether a checkpoint file can be read to its end.

    Reads the file once, compares the checksums that ``torch.save`` stores, and lets
    torch read all but the tensors.

    Args:
        path (str | PathLike): The file.

    Returns:
        bool: False if it is missing, truncated or altered.
    """
    try:
        if not zipfile.is_zipfile(path):
            return False
        _load_plain(Path(path), 'meta', mmap=True)
    except pickle.UnpicklingError:
        return True  # it holds objects; whoever reads it says so
    except Exception:  # zipfile alone has six kinds for a flipped bit
        return False
    return True
