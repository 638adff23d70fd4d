"""What a published model is: the parts that work without training, and their config.

A config that comes with downloaded weights is data, and is held to that: it may name
types of this package and nothing else, and no files but those beside it.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

# Parts of a tokenizer that only training needs, by the first part of their keys.
TRAINING_ONLY = (
    'discriminator.',
    'lecam.',
    'target_generator.',
    'head.perceptual.',
    'head.source.',
    'head.alignment.loss_module.',
)
TOKENIZER_FOLDER = 'tokenizer'
WEIGHTS = 'model.safetensors'
TOKENIZER_WEIGHTS = f'{TOKENIZER_FOLDER}/{WEIGHTS}'

_FOREIGN_TYPES = ('mmpretrain.SelfSupDataPreprocessor',)
_FILE_KEYS = ('init_cfg', 'checkpoint', 'pretrained', 'file', '_base_', '_scope_')
_ALIGNMENT = ('type', 'in_channels', 'out_channels', 'layers', 'ratio')


def published_model(model: Mapping[str, Any]) -> dict[str, Any]:
    """Config of a model without what only training needs.

    Discriminator, teacher, perceptual network and most losses go; so does every
    ``init_cfg``, which names files. The projection of the class token stays. What a
    generator names as its tokenizer stays, too.

    Args:
        model (Mapping): Config of a tokenizer or a generator.

    Returns:
        dict[str, Any]: Of plain dicts, lists, tuples, numbers and texts.

    Raises:
        ValueError: If it has no ``type``.
    """
    if 'type' not in model:
        raise ValueError(
            f'model={sorted(model)} has no type; give the config of a model, such as '
            'that of configs/mergevq_g+r.py.'
        )
    config = _without_init(model)
    for name in ('discriminator', 'target_generator', 'discriminator_start'):
        config.pop(name, None)
    config.pop('lecam_weight', None)
    head = config.get('head')
    if isinstance(head, dict) and str(head.get('type')).endswith('.MergeVQHead'):
        config['head'] = {'type': head['type']}
        if head.get('source'):  # the loss goes, the neck that it has trained stays
            test_cfg = config.get('test_cfg') or {}
            config['test_cfg'] = {'predict_source': True, **test_cfg}
        alignment = head.get('alignment')
        if alignment:
            names = [name for name in _ALIGNMENT if name in alignment]
            config['head']['alignment'] = {name: alignment[name] for name in names}
            if alignment.get('num_prototypes') is not None:
                config['head']['alignment']['num_prototypes'] = alignment[
                    'num_prototypes'
                ]
    return config


def _without_init(value: Any) -> Any:
    """A plain copy without ``init_cfg``."""
    if isinstance(value, Mapping):
        items = value.items()
        return {str(k): _without_init(v) for k, v in items if k != 'init_cfg'}
    if isinstance(value, (list, tuple)):
        return [_without_init(item) for item in value]
    return copy.deepcopy(value)


def published_weights(
    state: Mapping[str, Tensor], half: bool = False
) -> dict[str, Tensor]:
    """The tensors of a published model out of those of a trained one.

    Args:
        state (Mapping[str, Tensor]): Of the model, under its names.
        half (bool): Whether numbers become float16. Defaults to False.

    Returns:
        dict[str, Tensor]: On the CPU, contiguous, none sharing its memory.

    Raises:
        ValueError: If a number is too large for float16.
    """
    published = {
        name: value.detach().cpu().contiguous().clone()
        for name, value in state.items()
        if not name.startswith(TRAINING_ONLY)
    }
    for name, value in published.items() if half else ():
        if value.is_floating_point():
            published[name] = value.half()
            if value.isfinite().all() > published[name].isfinite().all():
                raise ValueError(
                    f'half=True, but {name} has numbers up to {value.abs().max():g}, '
                    'which float16 does not hold; leave it out.'
                )
    return published


def data_model(content: Mapping[str, Any], path: str | os.PathLike) -> dict[str, Any]:
    """The model of a config file that is data, as it may be built for inference.

    Args:
        content (Mapping): Of the file; what else it holds than ``model`` and
            ``data_preprocessor`` is left aside.
        path (str | PathLike): The file.

    Returns:
        dict[str, Any]: See :func:`published_model`.

    Raises:
        ValueError: If it asks for more than one of our models, see
            :func:`check_published`.
    """
    source = f'"{path}"'
    model = content.get('model')
    if content.get('data_preprocessor') is not None and isinstance(model, Mapping):
        model = {'data_preprocessor': content['data_preprocessor'], **model}
    if '_base_' in content:
        raise ValueError(
            f'{source} inherits from {content["_base_"]!r}, but a config that is data '
            'reads no other file; give a .py config, or write out what it inherits.'
        )
    _check_kind(model, source)
    try:
        model = published_model(model)
    except (AttributeError, TypeError) as error:
        raise ValueError(f'{source} holds no config of a model ({error}).') from None
    check_published(model, source)
    return model


def place_tokenizer(model: dict[str, Any], folder: Path) -> None:
    """Put the path of a tokenizer that lies beside its generator into a config.

    Args:
        model (dict): Published config; changed in place.
        folder (Path): Where it lies.

    Raises:
        FileNotFoundError: If there are no weights of a tokenizer.
    """
    tokenizer = model.get('tokenizer') or {}
    if tokenizer.get('checkpoint') != TOKENIZER_WEIGHTS:
        return
    path = folder / TOKENIZER_WEIGHTS
    if not path.is_file():
        raise FileNotFoundError(
            f'"{folder}" has no {TOKENIZER_WEIGHTS}, the tokenizer of its generator; '
            'fetch or save the model again.'
        )
    tokenizer['checkpoint'] = str(path)


def check_published(model: Any, source: str) -> None:
    """Refuse a config that could do more than describe one of our models.

    mmengine builds whatever a ``type`` names, also 'os.system'; a config from a
    stranger must not get that far.

    Args:
        model (Any): The config as read from a file.
        source (str): How to name the file in the error.

    Raises:
        ValueError: If it names another type than a registered one of this package, or a
            file that does not lie beside it.
    """
    _check_kind(model, source)
    _check_value(model, 'model', source)


def _check_kind(model: Any, source: str) -> None:
    """Refuse what is no config of a model at all."""
    if not isinstance(model, Mapping) or not isinstance(model.get('type'), str):
        raise ValueError(
            f'{source} holds no config of a model; give a folder that save_pretrained '
            'wrote.'
        )


def _check_value(value: Any, where: str, source: str) -> None:
    """Walk through a config; see :func:`check_published`."""
    if isinstance(value, (list, tuple)):
        for i, item in enumerate(value):
            _check_value(item, f'{where}[{i}]', source)
        return
    if not isinstance(value, Mapping):
        if value is not None and not isinstance(value, (bool, int, float, str)):
            raise ValueError(
                f'{source} has a {type(value).__name__} at {where}; a published config '
                'holds numbers, texts, lists and dicts only.'
            )
        return
    kind = value.get('type')
    if 'type' in value and not _is_known(kind):
        raise ValueError(
            f'{source} asks for {where}.type={kind!r}, which is no registered model of '
            'mergevq_mm; nothing was built: use a file from a source that you trust.'
        )
    for key, item in value.items():
        _check_key(key, item, where, kind, source)
        _check_value(item, f'{where}.{key}', source)


def _check_key(key: str, item: Any, where: str, kind: Any, source: str) -> None:
    """Refuse a reference to a file, and a tokenizer that is one or has no weights."""
    of_tokenizer = kind == 'mergevq_mm.FrozenTokenizer'
    beside = of_tokenizer and key == 'checkpoint' and item in (None, TOKENIZER_WEIGHTS)
    of_file = key in _FILE_KEYS and item is not None and not beside
    parts = key == 'tokenizer' or (of_tokenizer and key == 'model')
    if of_file or (parts and not isinstance(item, Mapping)):
        raise ValueError(
            f'{source} names the file or object {item!r} at {where}.{key}, but a '
            'published config reads nothing but the weights beside it; save the model '
            'again with save_pretrained.'
        )
    if of_tokenizer and key == 'random_init' and item:
        raise ValueError(
            f'{source} has a tokenizer without weights at {where}; save the model '
            'again with save_pretrained.'
        )


def _is_known(kind: Any) -> bool:
    """Whether a type is registered by this package, or one of a few data helpers."""
    if not isinstance(kind, str):
        return False
    if kind in _FOREIGN_TYPES:
        return True
    from mergevq_mm.registry import MODELS

    MODELS.import_from_location()
    scope, _, name = kind.partition('.')
    return scope == 'mergevq_mm' and name in MODELS.module_dict
