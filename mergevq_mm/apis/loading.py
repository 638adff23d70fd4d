"""A model with weights, however a user names it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..base.config import Config
from ..base.process import get_device
from ..utils.shipped import find_model
from .model import get_model, load_weights


def load_for_inference(
    model: nn.Module | str | os.PathLike[str] | Config,
    pretrained: bool | str | os.PathLike[str] | None = None,
    device: str | torch.device | None = None,
    **kwargs: Any,
) -> nn.Module:
    """A model with weights, however it is named.

    Args:
        model (nn.Module | str | PathLike | Config): A ready model, a name of
            :func:`list_models`, the path of a config, a config, or a folder of
            :func:`save_pretrained`.
        pretrained (bool | str | PathLike, optional): Path or URL of a checkpoint; False
            for random weights, which is never done unasked. Defaults to None: a
            folder's own, or those that come with a name.
        device (str | torch.device, optional): Defaults to None, a GPU where there is
            one.
        **kwargs: Override arguments of the model's config.

    Returns:
        nn.Module: In evaluation mode.

    Raises:
        ValueError: If there are no weights, or they do not fit.
        FileNotFoundError: If a file does not exist.
    """
    for name, value in (('model', model), ('pretrained', pretrained)):
        if isinstance(value, str) and not value.strip():
            raise ValueError(
                f'{name}={value!r} names nothing; give a path, or leave it out.'
            )
    device = device or get_device()
    if isinstance(model, str):
        model = find_model(model)
    if isinstance(model, nn.Module):
        if isinstance(pretrained, (str, os.PathLike)):
            load_weights(model, pretrained)
        return model.to(device).eval()
    folder = not isinstance(model, Config) and Path(model).is_dir()
    if pretrained is None and not folder:
        pretrained = True
        if isinstance(model, Config) or Path(model).is_file():
            raise ValueError(
                f'{model if not isinstance(model, Config) else "a config"} comes '
                'without weights; give the path of a checkpoint of it.'
            )
    return get_model(model, pretrained or False, device, **kwargs)
