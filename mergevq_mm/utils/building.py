"""Building models without their weights."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_module
from torch.overrides import TorchFunctionMode

# Steps in which any model may be built; the largest one here takes 7,500.
_MANY = 30_000
# Bytes of tables that a model may compute beyond its weights.
_TABLES = 256 * 2**20


def build_on_meta(model: Mapping[str, Any]) -> nn.Module:
    """Build a model whose tensors have shapes and no content.

    It takes neither memory nor time, and serves to compare names and shapes and to
    count operations. A generator's tokenizer, of which only the size is asked, is built
    as always: it loads its weights at the first use, which does not come.

    Args:
        model (Mapping): Config of a model without frozen helpers, such as
            :func:`~.published.published_model` makes it.

    Returns:
        nn.Module: The model on the meta device.
    """
    from mergevq_mm.registry import MODELS

    config = copy.deepcopy(dict(model))
    if 'tokenizer' in config:
        tokenizer = MODELS.build(config['tokenizer'])
        config['tokenizer'] = {'type': lambda: tokenizer}
    with torch.device('meta'):
        return MODELS.build(config)


def check_described(
    model: Mapping[str, Any],
    weights: Mapping[str, Tensor],
    source: str,
    fits: Callable[[nn.Module], None] | None = None,
    build: Callable[[Mapping[str, Any]], nn.Module] = build_on_meta,
) -> None:
    """Refuse a config from a file that describes another model than its weights.

    Some bytes of text can ask for any number of layers. It is built without content
    first, and no further than its weights go.

    Args:
        model (Mapping): The config.
        weights (Mapping[str, Tensor]): What the model is to be filled with; tensors on
            the meta device will do.
        source (str): How to name the file in the error.
        fits (Callable, optional): Compares the model, on the meta device, with its
            weights. Defaults to None.
        build (Callable): Builds it there. Defaults to :func:`build_on_meta`.

    Raises:
        ValueError: If there is no such model, it is larger than its weights, or
            ``fits`` refuses it.
    """
    with described_by(source), _at_most(_MANY + 10 * len(weights)):
        built = build(model)
        sizes = [b.numel() * b.element_size() for b in built.buffers()]
    if fits is not None:
        fits(built)
    whole = sum(w.numel() * w.element_size() for w in weights.values())
    if sum(sizes) > 2 * whole + _TABLES:
        raise ValueError(
            f'{source} describes a model with tables of {sum(sizes):,} bytes; nothing '
            'was built: use a file from a source that you trust.'
        )


@contextlib.contextmanager
def described_by(source: str) -> Iterator[None]:
    """Word what goes wrong where a model is built from a config of a file.

    Args:
        source (str): How to name the file in the error.

    Raises:
        ValueError: If anything goes wrong.
    """
    try:
        yield
    except Exception as error:
        reason = ' '.join(str(error).split()) or type(error).__name__
        raise ValueError(
            f'{source} describes no model that could be built ({reason}); nothing was '
            'built: fetch or save the model again.'
        ) from error


@contextlib.contextmanager
def _at_most(number: int) -> Iterator[None]:
    """Stop the building of a model that takes more steps than that.

    A step is a layer or tensor that a layer gets, or a call of torch: copies of layers
    (``nn.TransformerEncoder``) make only those until the last one is there.
    """
    count = 0

    def step(*_: Any) -> None:
        nonlocal count
        count += 1
        if count > number:
            raise ValueError('it has far more layers than its weights')

    class Calls(TorchFunctionMode):
        def __torch_function__(
            self, call: Callable, types: Any, args: tuple = (), kwargs: Any = None
        ) -> Any:
            step()
            return call(*args, **(kwargs or {}))

    with contextlib.ExitStack() as stack:
        # The call that is one too many may be the one that switches gradients on again.
        stack.enter_context(torch.set_grad_enabled(torch.is_grad_enabled()))
        for kind in ('parameter', 'buffer', 'module'):
            hook = getattr(torch_module, f'register_module_{kind}_registration_hook')
            stack.callback(hook(step).remove)
        stack.enter_context(Calls())
        yield
