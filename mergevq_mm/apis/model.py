"""A model by name, config or folder, with or without weights."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..base.config import Config
from ..utils.building import check_described, described_by
from ..utils.checkpoint import get_state_dict, load_pretrained, normalize_keys
from ..utils.checkpoint_file import load_checkpoint_file
from ..utils.data_config import is_data
from ..utils.export import CONFIG
from ..utils.published import TRAINING_ONLY, place_tokenizer, published_model
from ..utils.shipped import find_model
from .model_config import (
    build,
    check_tokenizer,
    complete_model,
    note,
    override,
    read_model_config,
)
from .pretrained import from_pretrained


def get_model(
    model: str | os.PathLike[str] | Config,
    pretrained: bool | str | os.PathLike[str] = False,
    device: str | torch.device | None = None,
    training: bool = False,
    trust: bool = False,
    **kwargs: Any,
) -> nn.Module:
    """Build a model of ours, in evaluation mode.

    Args:
        model (str | PathLike | Config): A name of :func:`list_models`, the path of a
            config file, a config, or a folder of :func:`save_pretrained`, which comes
            with its weights, as a shipped model does (see
            :mod:`mergevq_mm.utils.shipped`).
        pretrained (bool | str | PathLike): True for the published weights of a name,
            or path or URL of a checkpoint. Defaults to False, random weights.
        device (str | torch.device, optional): Where to put it. Defaults to None, the
            CPU.
        training (bool): Whether to build what only training needs, too: discriminator,
            teacher and losses. Defaults to False.
        trust (bool): Whether to unpickle arbitrary objects of ``pretrained``. Defaults
            to False.
        **kwargs: Override arguments of the model's config.

    Returns:
        nn.Module: With ``_config``, its config, and ``_metainfo``, what the metafile
        says of it.

    Raises:
        ValueError: If the name is not known, weights are not published or do not fit.
        FileNotFoundError: If a file does not exist.

    Examples:
        >>> import torch, mergevq_mm
        >>> model = mergevq_mm.get_model('mergevq_g+r')
        >>> merged, quantized = model.encode(torch.rand(1, 3, 256, 256), keep=144)
    """
    if not isinstance(model, Config):
        model = find_model(model)
        _check_arguments(model, pretrained, training)
        if Path(model).is_dir():
            return from_pretrained(model, device=device, **kwargs)
    is_file = not isinstance(model, Config) and is_data(model)
    config, info = read_model_config(model)
    checkpoint = pretrained or None
    if checkpoint is True:
        checkpoint = _published(config, info, model)
    override(config, kwargs)
    complete_model(config)
    if not training:
        config.model = published_model(config.model)
    content = load_checkpoint_file(checkpoint, trust=trust) if checkpoint else {}
    if is_file:
        place_tokenizer(config.model, Path(model).parent)
        _check_data(config.model, content, str(model), checkpoint)
    with described_by(f'"{model}"') if is_file else contextlib.nullcontext():
        built = build(config.model, config.get('default_scope') or 'mmpretrain')
    if checkpoint:
        load_pretrained(built, fitting_weights(built, content, checkpoint))
    note(built, _config=config, _metainfo=info)
    return built.to(device).eval() if device is not None else built.eval()


def _check_arguments(
    model: str | os.PathLike[str],
    pretrained: bool | str | os.PathLike[str],
    training: bool,
) -> None:
    """Refuse what does not go together with a published folder, or a file of data."""
    if Path(model).is_dir():
        if pretrained not in (False, True) or training:
            raise ValueError(
                f'model="{model}" is a folder with its own {CONFIG} and weights; leave '
                'pretrained and training out, or give a config.'
            )
    elif is_data(model) and training:
        raise ValueError(
            f'training=True, but of "{model}" only what inference needs is taken; give '
            'a .py config.'
        )


def _check_data(
    model: Mapping[str, Any],
    content: Mapping[str, Any],
    source: str,
    checkpoint: str | os.PathLike[str] | None,
) -> None:
    """Compare a config from a file of data with its weights, before it is built."""
    weights = get_state_dict(content)

    def fits(empty: nn.Module) -> None:
        if checkpoint:
            fitting_weights(empty, content, checkpoint)

    check_described(model, weights, f'"{source}"', fits)
    check_tokenizer(model)


def init_model(
    config: str | os.PathLike[str] | Config,
    checkpoint: str | os.PathLike[str] | None = None,
    device: str | torch.device | None = None,
    **kwargs: Any,
) -> nn.Module:
    """Build a model and load a checkpoint, in mmpretrain's older words.

    Args:
        config (str | PathLike | Config): As ``model`` of :func:`get_model`.
        checkpoint (str | PathLike, optional): Path or URL. Defaults to None.
        device (str | torch.device, optional): Defaults to None, the CPU.
        **kwargs: As of :func:`get_model`.

    Returns:
        nn.Module: In evaluation mode.
    """
    return get_model(config, checkpoint or False, device, **kwargs)


def load_weights(
    module: nn.Module, checkpoint: str | os.PathLike[str], trust: bool = False
) -> None:
    """Load a checkpoint that has all that a model works with.

    Args:
        module (nn.Module): The model. What only training needs may be missing.
        checkpoint (str | PathLike): Path or URL.
        trust (bool): Whether to unpickle arbitrary objects. Defaults to False.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file cannot be read or is not of this model; the model is
            left as it was.
    """
    content = load_checkpoint_file(checkpoint, trust=trust)
    load_pretrained(module, fitting_weights(module, content, checkpoint))


def fitting_weights(
    module: nn.Module, content: Mapping[str, Any], source: str | os.PathLike[str]
) -> dict[str, Tensor]:
    """The weights in a checkpoint, if they are all that a model works with.

    Args:
        module (nn.Module): The model.
        content (Mapping): Of the checkpoint.
        source (str | PathLike): How to name it in the error.

    Returns:
        dict[str, Tensor]: Under the names of the model.

    Raises:
        ValueError: If some are missing or of another shape.
    """
    expected = module.state_dict()
    found = normalize_keys(get_state_dict(content), expected)
    needed = [name for name in expected if not name.startswith(TRAINING_ONLY)]
    missing = [name for name in needed if name not in found]
    if missing:
        raise ValueError(
            f'"{source}" has {len(needed) - len(missing)} of the {len(needed)} '
            f'tensors of {type(module).__name__}, without {missing[0]}; nothing was '
            'loaded: give a checkpoint of this model.'
        )
    for name in expected:
        if name in found and found[name].shape != expected[name].shape:
            raise ValueError(
                f'"{source}" has {name} of shape {tuple(found[name].shape)} where '
                f'{type(module).__name__} needs {tuple(expected[name].shape)}; nothing '
                'was loaded: give a checkpoint of this architecture.'
            )
    return found


def _published(config: Config, info: Any, model: object) -> str:
    """Where the published weights of a model are."""
    weights = info.weights if info is not None else config.get('load_from')
    if not weights:
        raise ValueError(
            f'pretrained=True, but no weights are published for {model!r}; give the '
            'path or URL of a checkpoint.'
        )
    return str(weights)
