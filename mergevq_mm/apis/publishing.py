"""Publish a model: as a folder, or in a repository of the Hugging Face hub."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from ..base.config import Config
from ..utils.building import build_on_meta
from ..utils.export import (
    check_fit,
    read_config,
    replaced_folder,
    write_card,
    write_files,
)
from ..utils.model_card import LICENSE, REPOSITORY_KEY
from ..utils.published import (
    TOKENIZER_FOLDER,
    TOKENIZER_WEIGHTS,
    published_model,
    published_weights,
)
from .model import get_model
from .model_config import read_model_config
from .preparation import published_preparation
from .pretrained import REPOSITORY, hub_package
from .preview import add_preview


def save_pretrained(
    model: nn.Module,
    folder: str | os.PathLike[str],
    config: str | os.PathLike[str] | Config | Mapping[str, Any] | None = None,
    metadata: Mapping[str, Any] | None = None,
    half: bool = False,
    pictures: Any = None,
) -> Path:
    """Write a tokenizer or a generator as a folder for others.

    What only training needs is left out. A generator takes its tokenizer along.
    transformers loads the folder, too, with this package or without; the code that this
    takes lies in it (:mod:`mergevq_mm.utils.carried`).

    Args:
        model (nn.Module): A MergeVQ, MergeAR or RandAR, with its weights.
        folder (str | PathLike): Where; made if it is not there.
        config (str | PathLike | Config | Mapping, optional): Its config, or that of the
            model alone. Defaults to None, the one that :func:`get_model` built it from.
        metadata (Mapping, optional): What else to tell of it: ``license``, ``metrics``
            (names and numbers), ``images`` (what it was trained on), or anything else.
            Defaults to None.
        half (bool): Whether to write float16, half as large; loaded, the model computes
            in float32 again. Defaults to False.
        pictures (Any, optional): Images for the card, as an inferencer takes them; they
            are reconstructed with what was written, and measured. Defaults to None.

    Returns:
        Path: The folder.

    Raises:
        FileNotFoundError: If a picture does not exist.
        ValueError: If the config is not known, of no model of ours or not that of the
            model, a weight is too large for ``half``, or something is no picture.
    """
    full = _config_of(model, config)
    model_cfg = published_model(full if 'type' in full else full['model'])
    kind = str(model_cfg['type'])
    if not kind.startswith('mergevq_mm.'):
        raise ValueError(
            f'this {type(model).__name__} ({kind}) serves training or judging, and is '
            'no model to publish; give a MergeVQ, MergeAR or RandAR.'
        )
    preparation = published_preparation(full)
    told: dict[str, Any] = {} if preparation is None else {'preparation': preparation}
    # What it was trained on goes with it when it is saved again, and to its tokenizer.
    for known in (full.get('metadata'), metadata):
        if isinstance(known, Mapping):
            told |= {n: known[n] for n in ('images', LICENSE) if known.get(n)}
    tokenizer = getattr(model, 'tokenizer', None)
    weights = published_weights(model.state_dict(), half)
    source = f'The {type(model).__name__} to save'
    with replaced_folder(folder) as part:
        if tokenizer is not None and 'tokenizer' in model_cfg:
            model_cfg['tokenizer'] = _save_tokenizer(
                tokenizer, model_cfg['tokenizer'], part, told, half
            )
        check_fit(build_on_meta(model_cfg), weights, source)
        told = {**told, **(metadata or {})}
        write_files(part, model_cfg, weights, told)
        if pictures is not None:
            write_card(part, model_cfg, weights, told, add_preview(part, pictures))
    return Path(folder)


def _save_tokenizer(
    tokenizer: nn.Module,
    config: Mapping[str, Any],
    folder: Path,
    metadata: Mapping[str, Any],
    half: bool,
) -> dict[str, Any]:
    """Write a generator's tokenizer beside it; its config for there."""
    from mergevq_mm.models.generators.tokenizer import FrozenTokenizer, read_parts

    if not isinstance(tokenizer, FrozenTokenizer):
        return dict(config)  # it has no weights of its own
    parts = published_model({'type': 'parts', **read_parts(config['model'])})
    del parts['type']
    weights = published_weights(tokenizer.network.state_dict(), half)
    target = folder / TOKENIZER_FOLDER
    head: dict[str, Any] = {'type': 'mergevq_mm.MergeVQHead'}
    if tokenizer.learned_recovery:
        head['source'] = {}  # says that the recovery is trained
    model = {'type': 'mergevq_mm.MergeVQ', **parts, 'head': head}
    write_files(target, model, weights, metadata)
    return {
        'type': 'mergevq_mm.FrozenTokenizer',
        'model': parts,
        'checkpoint': TOKENIZER_WEIGHTS,
    }


def push_to_hub(
    model: nn.Module | str | os.PathLike[str],
    repo_id: str,
    config: str | os.PathLike[str] | Config | Mapping[str, Any] | None = None,
    private: bool = False,
    token: str | None = None,
    commit_message: str = 'Upload with mergevq_mm',
    metadata: Mapping[str, Any] | None = None,
    pictures: Any = None,
) -> str:
    """Publish a model in a repository of the Hugging Face hub.

    The card says how to load it, and what ``metadata`` and ``pictures`` tell of it.

    Args:
        model (nn.Module | str | PathLike): A model, or a folder that
            :func:`save_pretrained` wrote.
        repo_id (str): 'owner/name'; made if it is not there.
        config (optional): As of :func:`save_pretrained`. Defaults to None.
        private (bool): Whether a new repository is private. Defaults to False.
        token (str, optional): Of the account. Defaults to None, the one logged in.
        commit_message (str): Defaults to 'Upload with mergevq_mm'.
        metadata (Mapping, optional): As of :func:`save_pretrained`. Defaults to None.
        pictures (Any, optional): As of :func:`save_pretrained`. Defaults to None.

    Returns:
        str: URL of the repository.

    Raises:
        FileNotFoundError: If the folder is none of :func:`save_pretrained`.
        ValueError: If the package huggingface_hub is missing, ``repo_id`` is no name of
            a repository, or a folder is given with what it has to say itself.
    """
    hub = hub_package()
    if not REPOSITORY.fullmatch(repo_id):
        raise ValueError(
            f'repo_id="{repo_id}" is no name of a repository; give "owner/name".'
        )
    with tempfile.TemporaryDirectory() as temporary:
        folder = temporary
        if isinstance(model, nn.Module):
            metadata = {**(metadata or {}), REPOSITORY_KEY: repo_id}
            save_pretrained(model, folder, config, metadata, pictures=pictures)
        else:
            folder = os.fspath(model)
            read_config(folder)  # refuses what could not be loaded again
            if any(told is not None for told in (config, metadata, pictures)):
                raise ValueError(
                    f'"{folder}" is pushed as it is, with its card; give config, '
                    'metadata and pictures to save_pretrained, which writes it.'
                )
        api = hub.HfApi(token=token)
        url = api.create_repo(repo_id=repo_id, private=private, exist_ok=True)
        api.upload_folder(
            repo_id=repo_id, folder_path=folder, commit_message=commit_message
        )
    return str(url)


def export_checkpoint(
    config: str | os.PathLike[str] | Config,
    checkpoint: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    trust: bool = False,
    metadata: Mapping[str, Any] | None = None,
    half: bool = False,
    pictures: Any = None,
) -> Path:
    """Turn a checkpoint of a training run into a folder for others.

    Checkpoints of our runs hold the averaged weights, which are the ones exported.

    Args:
        config (str | PathLike | Config): Of the run, or a name of :func:`list_models`.
        checkpoint (str | PathLike): Of the run.
        folder (str | PathLike): Where to write.
        trust (bool): Whether to unpickle arbitrary objects. Defaults to False.
        metadata (Mapping, optional): What else to tell of it. Defaults to None.
        half (bool): As of :func:`save_pretrained`. Defaults to False.
        pictures (Any, optional): As of :func:`save_pretrained`. Defaults to None.

    Returns:
        Path: The folder.

    Raises:
        FileNotFoundError: If a file does not exist.
        ValueError: If the checkpoint is not of this model.
    """
    model = get_model(config, checkpoint, trust=trust)
    return save_pretrained(
        model, folder, metadata=metadata, half=half, pictures=pictures
    )


def _config_of(
    model: nn.Module, config: str | os.PathLike[str] | Config | Mapping[str, Any] | None
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
