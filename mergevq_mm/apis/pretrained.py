"""Publish a model and get it back: by a folder, or by the Hugging Face hub."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from torch import nn

from ..utils.export import (
    CONFIG,
    check_fit,
    fill,
    read_config,
    read_folder,
    write_folder,
)
from ..utils.published import (
    TOKENIZER_FOLDER,
    TOKENIZER_WEIGHTS,
    WEIGHTS,
    published_model,
    published_weights,
)
from .model import build, override, read_model_config
from .preparation import published_preparation

_REPOSITORY = re.compile(r'[\w-][\w.-]*/[\w-][\w.-]*')
_FILES = [CONFIG, WEIGHTS, 'README.md', f'{TOKENIZER_FOLDER}/*']


def save_pretrained(
    model: nn.Module,
    folder: str | os.PathLike,
    config: str | os.PathLike | Config | Mapping[str, Any] | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> Path:
    """Write a tokenizer or a generator as a folder for others.

    What only training needs is left out. A generator takes its tokenizer along.

    Args:
        model (nn.Module): A MergeVQ, MergeAR or RandAR, with its weights.
        folder (str | PathLike): Where; made if it is not there.
        config (str | PathLike | Config | Mapping, optional): Its config, or that of the
            model alone. Defaults to None, the one that :func:`get_model` built it from.
        metadata (Mapping, optional): What else to tell of it. Defaults to None.

    Returns:
        Path: The folder.

    Raises:
        ValueError: If the config is not known or is not that of the model.
    """
    full = _config_of(model, config)
    model_cfg = published_model(full if 'type' in full else full['model'])
    preparation = published_preparation(full)
    if preparation is not None:
        metadata = {'preparation': preparation, **(metadata or {})}
    tokenizer = getattr(model, 'tokenizer', None)
    folder = Path(folder)
    if tokenizer is not None and 'tokenizer' in model_cfg:
        model_cfg['tokenizer'] = _save_tokenizer(
            tokenizer, model_cfg['tokenizer'], folder, preparation
        )
    weights = published_weights(model.state_dict())
    check_fit(_empty(model_cfg), weights, f'The {type(model).__name__} to save')
    return write_folder(folder, model_cfg, weights, metadata)


def _save_tokenizer(
    tokenizer: nn.Module,
    config: Mapping[str, Any],
    folder: Path,
    preparation: list[dict] | None,
) -> dict[str, Any]:
    """Write a generator's tokenizer beside it; its config for there."""
    from mergevq_mm.models.generators.tokenizer import FrozenTokenizer, _read_model

    if not isinstance(tokenizer, FrozenTokenizer):
        return dict(config)  # it has no weights of its own
    parts = published_model({'type': 'parts', **_read_model(config['model'])})
    del parts['type']
    weights = published_weights(tokenizer.network.state_dict())
    target = folder / TOKENIZER_FOLDER
    head: dict[str, Any] = {'type': 'mergevq_mm.MergeVQHead'}
    if tokenizer.learned_recovery:
        head['source'] = {}  # says that the recovery is trained
    model = {'type': 'mergevq_mm.MergeVQ', **parts, 'head': head}
    metadata = {'preparation': preparation} if preparation is not None else None
    write_folder(target, model, weights, metadata)
    return {
        'type': 'mergevq_mm.FrozenTokenizer',
        'model': parts,
        'checkpoint': TOKENIZER_WEIGHTS,
    }


def from_pretrained(
    source: str | os.PathLike,
    device: str | torch.device | None = None,
    revision: str | None = None,
    token: str | None = None,
    **kwargs: Any,
) -> nn.Module:
    """Load a model that :func:`save_pretrained` wrote. Runs no code of it.

    Args:
        source (str | PathLike): A folder, or 'owner/name' of a repository of the hub.
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
    model_cfg, weights, metadata = read_folder(folder)
    config = Config({'model': model_cfg, 'metadata': metadata})
    override(config, kwargs)
    built_cfg = config.model.to_dict()
    tokenizer = built_cfg.get('tokenizer') or {}
    if tokenizer.get('checkpoint') == TOKENIZER_WEIGHTS:
        path = folder / TOKENIZER_WEIGHTS
        if not path.is_file():
            raise FileNotFoundError(
                f'"{folder}" has no {TOKENIZER_WEIGHTS}, the tokenizer of its '
                'generator; fetch or save the model again.'
            )
        tokenizer['checkpoint'] = str(path)
    model = build(built_cfg)
    fill(model, weights, f'"{folder / WEIGHTS}"')
    model._config = Config({'model': built_cfg, 'metadata': metadata})
    model._metainfo = None
    model.is_init = True  # init_weights would draw new ones
    return model.to(device).eval() if device is not None else model.eval()


def push_to_hub(
    model: nn.Module | str | os.PathLike,
    repo_id: str,
    config: str | os.PathLike | Config | Mapping[str, Any] | None = None,
    private: bool = False,
    token: str | None = None,
    commit_message: str = 'Upload with mergevq_mm',
    metadata: Mapping[str, Any] | None = None,
) -> str:
    """Publish a model in a repository of the Hugging Face hub.

    Args:
        model (nn.Module | str | PathLike): A model, or a folder that
            :func:`save_pretrained` wrote.
        repo_id (str): 'owner/name'; made if it is not there.
        config (optional): As of :func:`save_pretrained`. Defaults to None.
        private (bool): Whether a new repository is private. Defaults to False.
        token (str, optional): Of the account. Defaults to None, the one logged in.
        commit_message (str): Defaults to 'Upload with mergevq_mm'.
        metadata (Mapping, optional): As of :func:`save_pretrained`. Defaults to None.

    Returns:
        str: URL of the repository.

    Raises:
        ValueError: If the package huggingface_hub is missing, or ``repo_id`` is no
            name of a repository.
    """
    hub = _hub()
    if not _REPOSITORY.fullmatch(repo_id):
        raise ValueError(
            f'repo_id="{repo_id}" is no name of a repository; give "owner/name".'
        )
    with tempfile.TemporaryDirectory() as temporary:
        folder = temporary
        if isinstance(model, nn.Module):
            save_pretrained(model, folder, config, metadata)
        else:
            folder = os.fspath(model)
            read_config(folder)  # refuses what could not be loaded again
        api = hub.HfApi(token=token)
        url = api.create_repo(repo_id=repo_id, private=private, exist_ok=True)
        api.upload_folder(
            repo_id=repo_id, folder_path=folder, commit_message=commit_message
        )
    return str(url)


def export_checkpoint(
    config: str | os.PathLike | Config,
    checkpoint: str | os.PathLike,
    folder: str | os.PathLike,
    trust: bool = False,
    metadata: Mapping[str, Any] | None = None,
) -> Path:
    """Turn a checkpoint of a training run into a folder for others.

    Checkpoints of our runs hold the averaged weights, which are the ones exported.

    Args:
        config (str | PathLike | Config): Of the run, or a name of :func:`list_models`.
        checkpoint (str | PathLike): Of the run.
        folder (str | PathLike): Where to write.
        trust (bool): Whether to unpickle arbitrary objects. Defaults to False.
        metadata (Mapping, optional): What else to tell of it. Defaults to None.

    Returns:
        Path: The folder.

    Raises:
        FileNotFoundError: If a file does not exist.
        ValueError: If the checkpoint is not of this model.
    """
    from .model import get_model

    cfg, _ = read_model_config(config)
    model = get_model(cfg, checkpoint, trust=trust)
    return save_pretrained(model, folder, metadata=metadata)


def _config_of(
    model: nn.Module, config: str | os.PathLike | Config | Mapping[str, Any] | None
) -> Mapping[str, Any]:
    """Config that a model was built from, or that of the model alone."""
    if config is None:
        config = getattr(model, '_config', None)
    if config is None:
        raise ValueError(
            f'config=None, and this {type(model).__name__} does not know its config; '
            'give the one that it was built from.'
        )
    if isinstance(config, (str, os.PathLike)):
        config = read_model_config(config)[0]
    return config.to_dict() if isinstance(config, Config) else config


def _empty(model_cfg: Mapping[str, Any]) -> nn.Module:
    """The model of a published config without content, to compare with."""
    from ..utils.building import build_on_meta

    config = dict(model_cfg)
    if (config.get('tokenizer') or {}).get('checkpoint') is not None:
        config['tokenizer'] = {
            **config['tokenizer'],
            'checkpoint': None,
            'random_init': True,
        }
    return build_on_meta(config)


def _fetch(source: str | os.PathLike, revision: str | None, token: str | None) -> Path:
    """The folder of a model, fetched from the hub where it is not on the disk."""
    if Path(source).is_dir():
        return Path(source)
    name = os.fspath(source)
    if not _REPOSITORY.fullmatch(name) or Path(name).is_file():
        raise FileNotFoundError(
            f'"{name}" is no folder; give one that save_pretrained wrote, or '
            '"owner/name" of a repository.'
        )
    hub = _hub()
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


def _hub() -> Any:
    """The package huggingface_hub, or a sentence that says how to get it."""
    try:
        import huggingface_hub
    except ImportError as error:
        raise ValueError(
            'The hub needs the package huggingface_hub: pip install mergevq_mm[hub].'
        ) from error
    return huggingface_hub
