"""From a name, a path or a config to a model without weights."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..base.config import Config
from ..base.registry import DefaultScope
from ..base.tier import has_openmmlab, needs_training
from ..utils.building import check_described
from ..utils.checkpoint import normalize_keys
from ..utils.data_config import is_data, read_data
from ..utils.export import check_fit, tensor_shapes
from ..utils.published import data_model
from .hub import index_root, model_info


def read_model_config(model: str | os.PathLike[str] | Config) -> tuple[Config, Any]:
    """Config of a model, and what its metafile says where it was given by name.

    A ``.py`` config is a script and runs. One of JSON or YAML is data: of it the model
    is taken, without what only training needs, under the rules of published folders,
    and how a published folder prepares images.

    Args:
        model (str | PathLike | Config): A name, a path or a config.

    Returns:
        tuple[Config, Model | None]: The config is the caller's own.

    Raises:
        ValueError: If the name is not known, or the config has no model, or is data and
            asks for more than one of our models.
        FileNotFoundError: If there is no such file.
    """
    info = None
    if isinstance(model, Config):
        config = copy.deepcopy(model)
    elif is_data(model):
        content = read_data(model)
        config = Config({'model': data_model(content, model)})
        metadata = content.get('metadata')
        if isinstance(metadata, Mapping) and 'preparation' in metadata:
            config.metadata = {'preparation': metadata['preparation']}
    elif Path(model).suffix == '.py':
        config = _script(model)
    else:
        info = model_info(str(model))
        config = _script(info.config)
    if not isinstance(config.get('model'), Mapping):
        raise ValueError(
            f'{model!r} has no model; give a config with model=dict(type=...).'
        )
    return config, info


def _script(path: str | os.PathLike[str]) -> Config:
    """The content of a config that is a script, which mmengine runs."""
    if not has_openmmlab():
        raise needs_training(f'The config "{path}", a script,')
    from ..utils.config import load_config

    config: Config = load_config(path)
    return config


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
        built: nn.Module = MODELS.build(dict(model))
    return built


def note(model: nn.Module, **said: Any) -> None:
    """Set attributes of a model that are none of its parts.

    Args:
        model (nn.Module): Changed in place.
        **said (Any): Names and values.
    """
    for name, value in said.items():
        setattr(model, name, value)


def check_tokenizer(model: Mapping[str, Any]) -> None:
    """Compare a generator's tokenizer with its file, before either is made.

    Args:
        model (Mapping): Published config. Weights that are no safetensors are compared
            when they are loaded.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If they do not fit.
    """
    from mergevq_mm.models.generators.tokenizer import TokenizerParts

    tokenizer = model.get('tokenizer') or {}
    path = tokenizer.get('checkpoint')
    parts = tokenizer.get('model') or {}
    if path is None or Path(path).suffix != '.safetensors' or isinstance(parts, str):
        return
    announced = tensor_shapes(path)

    def fits(empty: nn.Module) -> None:
        expected = empty.state_dict()
        found = normalize_keys(announced, expected)
        found = {name: value for name, value in found.items() if name in expected}
        check_fit(empty, found, f'"{path}"')

    def on_meta(config: Mapping[str, Any]) -> nn.Module:
        with torch.device('meta'):
            return TokenizerParts(config)

    source = f'The tokenizer of "{path}"'
    check_described(parts, announced, source, fits, on_meta)
