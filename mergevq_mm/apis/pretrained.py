"""Get a published model back: from a folder, a name, or the Hugging Face hub."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..base.config import Config
from ..utils.building import check_described, described_by
from ..utils.checkpoint_file import load_checkpoint_file
from ..utils.export import CONFIG, check_fit, fill, read_config, tensor_shapes
from ..utils.published import TOKENIZER_FOLDER, WEIGHTS, place_tokenizer
from ..utils.shipped import find_model, shipped_models
from .model_config import build, check_tokenizer, note, override

REPOSITORY = re.compile(r'[\w-][\w.-]*/[\w-][\w.-]*')
_FILES = [CONFIG, WEIGHTS, 'README.md']  # and no code
_FILES += [f'{TOKENIZER_FOLDER}/{name}' for name in _FILES]


def from_pretrained(
    source: str | os.PathLike[str],
    device: str | torch.device | None = None,
    revision: str | None = None,
    token: str | None = None,
    **kwargs: Any,
) -> nn.Module:
    """Load a model that :func:`save_pretrained` wrote. Runs no code of it.

    Args:
        source (str | PathLike): A folder, the name of a shipped model (see
            :mod:`mergevq_mm.utils.shipped`), or 'owner/name' of a repository of the
            hub.
        device (str | torch.device, optional): Where to put it. Defaults to None, the
            CPU.
        revision (str, optional): Branch, tag or commit of the repository. Defaults to
            None.
        token (str, optional): For private repositories. Defaults to None.
        **kwargs: Override arguments of the model's config that change no weights.

    Returns:
        nn.Module: In evaluation mode, with all of its weights.

    Raises:
        FileNotFoundError: If there is no such folder or repository.
        ValueError: If a file is damaged or names what it must not, or the weights are
            not those of the config.
    """
    folder = _fetch(source, revision, token)
    model_cfg, metadata = read_config(folder)
    config = Config({'model': model_cfg, 'metadata': metadata})
    override(config, kwargs)
    built_cfg = config.model.to_dict()
    place_tokenizer(built_cfg, folder)
    source = f'"{folder / WEIGHTS}"'
    described = f'"{folder / CONFIG}"'
    announced = tensor_shapes(folder / WEIGHTS)
    check_described(
        built_cfg,
        announced,
        described,
        lambda empty: check_fit(empty, announced, source),
    )
    check_tokenizer(built_cfg)
    with described_by(described):
        model = build(built_cfg)
    fill(model, load_checkpoint_file(folder / WEIGHTS), source)
    config = Config({'model': built_cfg, 'metadata': metadata})
    # Otherwise init_weights would draw new ones.
    note(model, _config=config, _metainfo=None, is_init=True)
    return model.to(device).eval() if device is not None else model.eval()


def _fetch(
    source: str | os.PathLike[str], revision: str | None, token: str | None
) -> Path:
    """The folder of a model, fetched from the hub where it is not on the disk."""
    source = find_model(source)
    if Path(source).is_dir():
        return Path(source)
    name = os.fspath(source)
    if not REPOSITORY.fullmatch(name) or Path(name).is_file():
        raise FileNotFoundError(
            f'"{name}" is no folder; give one that save_pretrained wrote, '
            '"owner/name" of a repository, or a model that comes with the package: '
            f'{", ".join(shipped_models())}.'
        )
    hub = hub_package()
    try:
        folder = hub.snapshot_download(
            name, revision=revision, token=token, allow_patterns=_FILES
        )
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise FileNotFoundError(
            f'"{name}" is no folder, and cannot be fetched from the hub ({reason}); '
            'give the path of a folder, or look at the name and the network.'
        ) from error
    return Path(folder)


def hub_package() -> Any:
    """The package huggingface_hub.

    Returns:
        module: The package.

    Raises:
        ValueError: If it is missing; it says how to get it.
    """
    try:
        import huggingface_hub
    except ImportError as error:
        raise ValueError(
            'The hub needs the package huggingface_hub: pip install mergevq_mm[hub].'
        ) from error
    return huggingface_hub
