"""A model by name, config or folder, with or without weights."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from torch import nn

from ..utils.checkpoint import get_state_dict, load_pretrained, normalize_keys
from ..utils.checkpoint_file import load_checkpoint_file
from ..utils.export import CONFIG
from ..utils.published import TRAINING_ONLY, published_model
from .hub import index_root, model_info

_SUFFIXES = ('.py', '.json', '.yaml', '.yml')


def get_model(
    model: str | os.PathLike | Config,
    pretrained: bool | str | os.PathLike = False,
    device: str | torch.device | None = None,
    training: bool = False,
    trust: bool = False,
    **kwargs: Any,
) -> nn.Module:
    """Build a model of ours, in evaluation mode.

    Args:
        model (str | PathLike | Config): A name of :func:`list_models`, the path of a
            config file, a config, or a folder of :func:`save_pretrained`, which comes
            with its weights.
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
    if not isinstance(model, Config) and Path(model).is_dir():
        from .pretrained import from_pretrained

        if pretrained not in (False, True) or training:
            raise ValueError(
                f'model="{model}" is a folder with its own {CONFIG} and weights; leave '
                'pretrained and training out, or give a config.'
            )
        return from_pretrained(model, device=device, **kwargs)
    config, info = read_model_config(model)
    if pretrained is True:
        pretrained = _published(config, info, model)
    override(config, kwargs)
    complete_model(config)
    if not training:
        config.model = published_model(config.model)
    built = build(config.model, config.get('default_scope') or 'mmpretrain')
    if pretrained:
        load_weights(built, pretrained, trust)
    built._config, built._metainfo = config, info
    return built.to(device).eval() if device is not None else built.eval()


def init_model(
    config: str | os.PathLike | Config,
    checkpoint: str | os.PathLike | None = None,
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


def read_model_config(model: str | os.PathLike | Config) -> tuple[Config, Any]:
    """Config of a model, and what its metafile says where it was given by name.

    Args:
        model (str | PathLike | Config): A name, a path or a config.

    Returns:
        tuple[Config, Model | None]: The config is the caller's own.

    Raises:
        ValueError: If the name is not known, or the config has no model.
        FileNotFoundError: If there is no such file.
    """
    from ..utils.config import load_config

    info = None
    if isinstance(model, Config):
        config = copy.deepcopy(model)
    elif Path(model).suffix in _SUFFIXES:
        config = load_config(model)
    else:
        info = model_info(str(model))
        config = load_config(info.config)
    if not isinstance(config.get('model'), Mapping):
        raise ValueError(
            f'{model!r} has no model; give a config with model=dict(type=...).'
        )
    return config, info


def complete_model(config: Config) -> None:
    """Take into a config's model what a runner would add to it, in place.

    That is the data preprocessor that stands beside the model. And the path of a
    tokenizer's config, which is relative to the repository, becomes one that holds in
    any folder.

    Args:
        config (Config): With a ``model``.
    """
    model = config.model
    if config.get('data_preprocessor') is not None:
        model.setdefault('data_preprocessor', config.data_preprocessor)
    tokenizer = model.get('tokenizer') or {}
    path = tokenizer.get('model')
    if isinstance(path, str) and not Path(path).is_file():
        installed = index_root() / path
        if installed.is_file():
            tokenizer['model'] = str(installed)


def override(config: Config, arguments: Mapping[str, Any]) -> None:
    """Override arguments of a config's model, in place.

    Raises:
        ValueError: If a dict meets something else; ``_delete_=True`` in it replaces.
    """
    if not arguments:
        return
    try:
        config.merge_from_dict({'model': dict(arguments)})
    except TypeError as error:
        raise ValueError(str(error)) from None


def build(model: Mapping[str, Any], scope: str = 'mmpretrain') -> nn.Module:
    """Build a model from its config.

    Args:
        model (Mapping): Its config.
        scope (str): Where types without one are looked for. Defaults to 'mmpretrain'.

    Returns:
        nn.Module: Not initialised by its ``init_cfg``.
    """
    from mergevq_mm.registry import MODELS

    with DefaultScope.overwrite_default_scope(scope):
        return MODELS.build(dict(model))


def load_weights(
    module: nn.Module, checkpoint: str | os.PathLike, trust: bool = False
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
    expected = module.state_dict()
    found = normalize_keys(get_state_dict(content), expected)
    needed = [name for name in expected if not name.startswith(TRAINING_ONLY)]
    missing = [name for name in needed if name not in found]
    if missing:
        raise ValueError(
            f'"{checkpoint}" has {len(needed) - len(missing)} of the {len(needed)} '
            f'tensors of {type(module).__name__}, without {missing[0]}; nothing was '
            'loaded: give a checkpoint of this model.'
        )
    for name in expected:
        if name in found and found[name].shape != expected[name].shape:
            raise ValueError(
                f'"{checkpoint}" has {name} of shape {tuple(found[name].shape)} where '
                f'{type(module).__name__} needs {tuple(expected[name].shape)}; nothing '
                'was loaded: give a checkpoint of this architecture.'
            )
    load_pretrained(module, found)


def _published(config: Config, info: Any, model: object) -> str:
    """Where the published weights of a model are."""
    weights = info.weights if info is not None else config.get('load_from')
    if not weights:
        raise ValueError(
            f'pretrained=True, but no weights are published for {model!r}; give the '
            'path or URL of a checkpoint.'
        )
    return weights
