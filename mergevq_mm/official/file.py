"""Lightning files of the authors' code: raw or averaged weights.

Beside ``state_dict`` such a file holds optimizers and loops, which are not read. The
averaged copy of a weight is named ``model_ema.<its name without dots>``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..utils.checkpoint import get_state_dict

EMA = 'model_ema.'
KINDS = ('auto', 'ema', 'raw')


class Conversion(NamedTuple):
    """Weights in another layout.

    Attributes:
        weights (dict[str, Tensor]): Under their new names.
        model (dict[str, Any]): Config of the model that they are of.
        unknown (list[str]): Names of the source that have no place in the model.
        left_out (list[str]): Names of the source that are no part of it by design.
    """

    weights: dict[str, Tensor]
    model: dict[str, Any]
    unknown: list[str]
    left_out: list[str]


def choose_weights(
    checkpoint: Mapping[str, Any], kind: str = 'auto', prefix: str = ''
) -> tuple[dict[str, Tensor], str]:
    """Take the raw or the averaged weights of a model out of a file.

    Args:
        checkpoint (Mapping): Content of the file.
        kind (str): 'ema', 'raw', or 'auto': averaged where there are any. Defaults to
            'auto'.
        prefix (str): Of the names that are wanted; it stays. Defaults to ''.

    Returns:
        tuple[dict[str, Tensor], str]: Weights under their raw names, and 'ema' or
        'raw'.

    Raises:
        ValueError: If ``kind`` is not known, or averaged weights are asked for and one
            is missing.
    """
    if kind not in KINDS:
        raise ValueError(
            f"weights='{kind}' is not known; choose one of {', '.join(KINDS)}."
        )
    state = get_state_dict(checkpoint)
    raw = {
        name: value
        for name, value in state.items()
        if name.startswith(prefix) and not name.startswith(EMA)
    }
    averaged = {
        name: state[EMA + name.replace('.', '')]
        for name in raw
        if EMA + name.replace('.', '') in state
    }
    if kind == 'raw' or (kind == 'auto' and not averaged):
        return raw, 'raw'
    lost = [name for name in raw if name not in averaged and is_learned(name)]
    if lost:
        raise ValueError(
            f'The averaged weights lack {len(lost)} of {len(raw)} tensors, such as '
            f'{lost[0]}; take the raw ones (weights=raw).'
        )
    return {**raw, **averaged}, 'ema'


def is_learned(name: str) -> bool:
    """Whether a name of the authors' tokenizer or generator is a weight of it."""
    return not name.startswith(('loss.', 'dist_model.', 'quantize.', 'first_stage'))


def averaged_names(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same weights once more, under the names of averaged ones."""
    return {EMA + name.replace('.', ''): value for name, value in weights.items()}


def check_conversion(
    found: Conversion, model: nn.Module, allow_partial: bool = False
) -> list[str]:
    """Refuse weights that do not fill a model, or that it has no place for.

    Args:
        found (Conversion): The weights.
        model (nn.Module): The model of its config; it may stand on the meta device.
        allow_partial (bool): Whether weights may be missing or left over. Defaults to
            False.

    Returns:
        list[str]: Names of the model's tensors that stay as they are.

    Raises:
        ValueError: If a shape differs, or the conversion is not complete and not
            allowed to be partial.
    """
    expected = model.state_dict()
    for name, value in found.weights.items():
        if name in expected and expected[name].shape != value.shape:
            raise ValueError(
                f'{name} has the shape {tuple(value.shape)} where '
                f'{type(model).__name__} needs {tuple(expected[name].shape)}; give a '
                'file of the architecture that its other weights have.'
            )
    missing = [name for name in expected if name not in found.weights]
    unknown = found.unknown + [n for n in found.weights if n not in expected]
    if (missing or unknown) and not allow_partial:
        filled = len(expected) - len(missing)
        raise ValueError(
            f'{filled} of the {len(expected)} tensors of {type(model).__name__} are '
            f'filled, and {len(unknown)} of the file have no place in it (missing: '
            f'{_few(missing)}; no place: {_few(unknown)}); give a complete file, or '
            '--allow-partial to go on without them.'
        )
    return missing


def read_shapes(
    read: Callable[..., dict[str, Any]], weights: Mapping[str, Tensor], *args: Any
) -> dict[str, Any]:
    """Read an architecture, and word what goes wrong where weights are missing.

    Args:
        read (Callable): Takes the weights and ``args``.
        weights (Mapping[str, Tensor]): Under our names.
        *args (Any): What else it takes.

    Returns:
        dict[str, Any]: The config.

    Raises:
        ValueError: If a weight that tells the architecture is missing.
    """
    try:
        return read(weights, *args)
    except (LookupError, TypeError, ZeroDivisionError) as error:
        raise ValueError(
            f'The architecture cannot be read off the shapes, a weight is missing '
            f'({error}); give a complete file.'
        ) from error


def refuse_foreign(what: str, lacks: str, names: Mapping[str, Any]) -> ValueError:
    """The error for a file of something else."""
    return ValueError(
        f'The file is no {what} of the authors: it lacks {lacks} and holds '
        f'{_few(list(names))}; give one of their checkpoints, or convert it by another '
        'tool.'
    )


def filled_state(
    model: Callable[[], nn.Module], weights: Mapping[str, Tensor], missing: list[str]
) -> dict[str, Tensor]:
    """All tensors of a model: the given ones, and for the missing ones fresh ones.

    Args:
        model (Callable): Builds the model with initial weights; called only if any
            are missing.
        weights (Mapping[str, Tensor]): What there is.
        missing (list[str]): Names of the others, initialised under a fixed seed.

    Returns:
        dict[str, Tensor]: Complete.
    """
    state = dict(weights)
    if missing:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            fresh = model().state_dict()
        state.update({name: fresh[name] for name in missing})
    return state


def _few(names: list[str], count: int = 3) -> str:
    return ', '.join(names[:count]) + (', …' if len(names) > count else '') or 'none'
