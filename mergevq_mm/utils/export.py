"""A model as a folder: safetensors, its config and a card; written and read.

::

    model.safetensors   the weights
    config.json         what from_pretrained builds the model from
    config.py           the same for tools/test.py and FrozenTokenizer
    README.md           a model card, with preview.png where there are pictures
    tokenizer/          of a generator: its tokenizer, such a folder again

and what transformers loads it with (:mod:`.carried`). Reading takes ``config.json`` and
the safetensors files. Neither can hold code.
"""

from __future__ import annotations

import contextlib
import json
import os
import pprint
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..base.tier import has_openmmlab
from ..version import __version__
from .carried import transformers_entries, transformers_files
from .checkpoint_file import damaged, fetch_file, load_checkpoint_file
from .checkpoint_format import FORMAT, check_format
from .data_config import read_data
from .fileio import write_atomically
from .model_card import check_told, model_card
from .older_neck import complete_older_neck
from .published import WEIGHTS, check_published

CONFIG = 'config.json'


def write_folder(
    folder: str | os.PathLike,
    model: Mapping[str, Any],
    weights: Mapping[str, Tensor],
    metadata: Mapping[str, Any] | None = None,
) -> Path:
    """Write a published model.

    Args:
        folder (str | PathLike): Where; made if it is not there.
        model (Mapping): Published config.
        weights (Mapping[str, Tensor]): Contiguous, on the CPU.
        metadata (Mapping, optional): What else to tell of it, as JSON has it. Defaults
            to None.

    Returns:
        Path: The folder.

    Raises:
        ValueError: If the config is none that could be read again.
    """
    with replaced_folder(folder) as part:
        write_files(part, model, weights, metadata)
    return Path(folder)


def write_files(
    folder: Path,
    model: Mapping[str, Any],
    weights: Mapping[str, Tensor],
    metadata: Mapping[str, Any] | None = None,
) -> None:
    """Write the files of a published model one by one; see :func:`write_folder`."""
    model = json.loads(json.dumps(model))  # tuples become lists, as when it is read
    check_published(model, 'The config to save')
    check_told(metadata or {})
    folder.mkdir(exist_ok=True)
    save_weights(weights, folder / WEIGHTS)
    described = write_card(folder, model, weights, metadata)
    write_text(folder / 'config.py', config_text(model))
    for name, text in transformers_files(model, described).items():
        write_text(folder / name, text)
    content = {'format': FORMAT, 'model': model, 'metadata': described}
    content.update(transformers_entries(model))
    write_text(folder / CONFIG, json.dumps(content, indent=2) + '\n')


def write_card(
    folder: Path,
    model: Mapping[str, Any],
    weights: Mapping[str, Tensor],
    metadata: Mapping[str, Any] | None = None,
    measured: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """Write the card of a published model; see :func:`write_folder`.

    Returns:
        dict[str, Any]: What it tells: numbers of parameters, ``metadata``, the version.
    """
    told = {**describe(model, weights), **(metadata or {}), 'mergevq_mm': __version__}
    write_text(folder / 'README.md', model_card(model, told, measured))
    return told


@contextlib.contextmanager
def replaced_folder(folder: str | os.PathLike) -> Iterator[Path]:
    """A folder to write into, whose files move on together when all are there.

    Args:
        folder (str | PathLike): Where to; made if it is not there.

    Yields:
        Path: A folder in it. Should the block fail, it goes, and ``folder`` is as it
        was.

    Raises:
        OSError: If the disk is full, or the folder cannot be written.
    """
    folder = Path(folder)
    new = not folder.exists()
    part = folder / '.part'
    shutil.rmtree(part, ignore_errors=True)  # of a process that was killed
    try:
        part.mkdir(parents=True)
        yield part
        files = [path for path in part.rglob('*') if path.is_file()]
        # Without its config a folder is no model: it goes first, and comes last.
        files.sort(key=lambda path: path == part / CONFIG)
        if part / CONFIG in files:
            (folder / CONFIG).unlink(missing_ok=True)
        for path in files:
            target = folder / path.relative_to(part)
            target.parent.mkdir(exist_ok=True)
            os.replace(path, target)
        new = False
    except FileNotFoundError:
        raise  # of what was to be read, such as a tokenizer
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else error
        raise OSError(
            f'Saving to "{folder}" failed ({reason}): free space or choose another '
            'folder; what it held is kept'
        ) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
        if new:
            with contextlib.suppress(OSError):
                folder.rmdir()


def save_weights(weights: Mapping[str, Tensor], path: Path) -> None:
    """Write a safetensors file that others may read.

    Args:
        weights (Mapping[str, Tensor]): Contiguous, on the CPU.
        path (Path): Where.

    Raises:
        OSError: If the disk is full.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    try:
        # One entry alone: several would come in any order, and equal models differ.
        save_file(dict(weights), path, {'format': 'pt'})
    except SafetensorError as error:
        raise OSError(str(error)) from error
    path.chmod(0o644)  # it comes out readable for its owner alone


def read_folder(
    folder: str | os.PathLike,
) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, Any]]:
    """Read a published model; builds nothing and runs nothing.

    Args:
        folder (str | PathLike): Of :func:`write_folder`.

    Returns:
        tuple[dict, dict, dict]: Config, weights and metadata.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If a file is damaged, or the config names what it must not.
    """
    folder = Path(folder)
    model, metadata = read_config(folder)
    return model, load_checkpoint_file(folder / WEIGHTS), metadata


def read_config(folder: str | os.PathLike) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read and check the config of a published model.

    Args:
        folder (str | PathLike): Of :func:`write_folder`.

    Returns:
        tuple[dict, dict]: Config and metadata.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If it is damaged, of a later version, or names what it must not.
    """
    path = Path(folder) / CONFIG
    if not path.is_file():
        raise FileNotFoundError(
            f'"{folder}" has no {CONFIG}; give a folder that save_pretrained wrote.'
        )
    content = read_data(path)
    metadata = content.get('metadata')
    metadata = metadata if isinstance(metadata, dict) else {}
    if 'format' in content:  # first: what it holds may be unknown here
        version = metadata.get('mergevq_mm')
        mark = {'format': content['format'], 'version': version}
        check_format(mark, f'"{path}"')
    check_published(content.get('model'), f'"{path}"')
    return content['model'], metadata


def fill(module: nn.Module, weights: Mapping[str, Tensor], source: str) -> None:
    """Give a module all of its weights, or leave it as it is.

    Args:
        module (nn.Module): Of the architecture that the weights are of.
        weights (Mapping[str, Tensor]): All of them, and no others.
        source (str): How to name them in the error.

    Raises:
        ValueError: If names or shapes differ.
    """
    check_fit(module, weights, source)
    module.load_state_dict(dict(weights))


def check_fit(module: nn.Module, weights: Mapping[str, Tensor], source: str) -> None:
    """Refuse weights that are not exactly a module's; see :func:`fill`."""
    expected, weights = module.state_dict(), dict(weights)
    complete_older_neck(weights, expected)
    missing = [name for name in expected if name not in weights]
    unknown = [name for name in weights if name not in expected]
    if missing or unknown:
        example = (missing or unknown)[0]
        raise ValueError(
            f'{source} has {len(expected) - len(missing)} of the {len(expected)} '
            f'tensors of {type(module).__name__}, and {len(unknown)} others (such as '
            f'{example}); nothing was loaded: give weights of this architecture.'
        )
    for name, value in weights.items():
        if value.shape != expected[name].shape:
            raise ValueError(
                f'{source} has {name} of shape {tuple(value.shape)} where '
                f'{type(module).__name__} needs {tuple(expected[name].shape)}; nothing '
                'was loaded: give weights of this architecture.'
            )


def describe(model: Mapping[str, Any], weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """Number of parameters, in all and by part."""
    parts: dict[str, int] = {}
    for name, value in weights.items():
        if not value.is_floating_point():
            continue  # a grid, or a count of steps
        part = name.partition('.')[0]
        parts[part] = parts.get(part, 0) + value.numel()
    return {'type': model['type'], 'parameters': sum(parts.values()), 'parts': parts}


def tensor_shapes(path: str | os.PathLike) -> dict[str, Tensor]:
    """The tensors that a safetensors file announces, by its header alone.

    Args:
        path (str | PathLike): The file.

    Returns:
        dict[str, Tensor]: On the meta device, in the order of their names.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is damaged.
    """
    from safetensors import safe_open

    path = fetch_file(path)
    try:
        with safe_open(path, 'pt') as file:
            shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}
    except Exception as error:
        raise ValueError(damaged(path, error)) from error
    return {name: torch.empty(s, device='meta') for name, s in shapes.items()}


def config_text(model: Mapping[str, Any]) -> str:
    """The config as a python file of OpenMMLab."""
    content = {
        'default_scope': 'mmpretrain',
        'custom_imports': {
            'imports': ['mergevq_mm'],
            'allow_failed_imports': False,
        },
        'model': dict(model),
    }
    if not has_openmmlab():  # the same content, set in another way
        lines = (f'{name} = {pprint.pformat(content[name])}\n' for name in content)
        return ''.join(lines)
    from mmengine.config import Config

    return Config(content).pretty_text


def write_text(path: Path, text: str) -> None:
    """Write a text, whole or not at all."""
    write_atomically(text.encode('utf-8'), path)
