"""Which module is the first whose output, or the gradient of it, is not finite."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_forward_hook,
    register_module_forward_pre_hook,
)


@dataclass
class Watch:
    """What was found in a forward and a backward pass.

    Attributes:
        model (nn.Module): Whose modules are named.
        output (str, optional): The first module, in the order in which they are done,
            whose output is not finite; None if all are.
        gradient (str, optional): The first place of the backward pass whose gradient is
            not finite.
    """

    model: nn.Module
    output: str | None = None
    gradient: str | None = None
    _running: list[nn.Module] = field(default_factory=list)
    _finite: str = 'the loss'
    _names: dict[int, str] = field(default_factory=dict)

    def enter(self, module: nn.Module, args: tuple) -> None:
        """A module begins."""
        self._running.append(module)

    def leave(self, module: nn.Module, args: tuple, output: Any) -> None:
        """A module is done: the innermost ones are first."""
        while self._running and self._running.pop() is not module:
            pass  # what an exception has left
        if self.output is None:
            self._look(module, args, output)
        for path, tensor in tensors_of(output):
            if tensor.requires_grad and tensor.is_floating_point():
                where = f'the output of {self.name(module)}{path}'
                tensor.register_hook(lambda grad, where=where: self._back(grad, where))

    def _look(self, module: nn.Module, args: tuple, output: Any) -> None:
        """Note a module whose output is not finite."""
        for path, tensor in tensors_of(output):
            count = bad_values(tensor)
            if not count:
                continue
            text = (
                f'{self.name(module)}{path}: {count} of {tensor.numel()} values are '
                f'{_kinds(tensor)}'
            )
            if any(bad_values(value) for _, value in tensors_of(args)):
                outer = self.name(self._running[-1]) if self._running else 'the model'
                text += f'; so was its input, which {outer} has made'
            self.output = text
            return

    def _back(self, gradient: Tensor, where: str) -> None:
        """Note the first gradient that is not finite, and the last one before it."""
        if self.gradient is not None:
            return
        count = bad_values(gradient)
        if not count:
            self._finite = where
            return
        self.gradient = (
            f'{where}: {count} of {gradient.numel()} values of its gradient are '
            f'{_kinds(gradient)}; the one before it, of {self._finite}, was finite'
        )

    def name(self, module: nn.Module) -> str:
        """Path and type of a module."""
        if (
            id(module) not in self._names
        ):  # frozen networks are built at their first use
            self._names = {id(module): '', **names_of(self.model)}
        name, kind = self._names[id(module)], type(module).__name__
        if module is self.model:
            name = 'the model'
        return f'{name} ({kind})' if name else kind


def names_of(model: nn.Module) -> dict[int, str]:
    """Paths of all modules by their ``id``, of frozen ones that stand in lists too."""
    names = {id(part): name for name, part in model.named_modules()}
    for name, part in model.named_modules():
        for attribute, value in vars(part).items():
            for hidden in value if isinstance(value, (list, tuple)) else ():
                if isinstance(hidden, nn.Module):
                    for inner, one in hidden.named_modules():
                        path = (name, attribute.strip('_'), inner)
                        names.setdefault(id(one), '.'.join(filter(None, path)))
    return names


@contextmanager
def watching(model: nn.Module) -> Iterator[Watch]:
    """Look at all that the modules compute, until the end of the block.

    Args:
        model (nn.Module): Its modules are named, and the gradients of its weights seen.

    Yields:
        Watch: Filled while the block runs.
    """
    watch = Watch(model)
    with ExitStack() as stack:
        handles = [
            register_module_forward_pre_hook(watch.enter),
            register_module_forward_hook(watch.leave),
        ]
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                where = f'the weight {name}'
                handles.append(
                    parameter.register_hook(
                        lambda grad, where=where: watch._back(grad, where)
                    )
                )
        for handle in handles:
            stack.callback(handle.remove)
        yield watch


def bad_values(tensor: Tensor) -> int:
    """How many values of a tensor are NaN or infinite; 0 of whole numbers."""
    if not tensor.is_floating_point():
        return 0
    return int((~torch.isfinite(tensor.detach())).sum())


def _kinds(tensor: Tensor) -> str:
    kinds = {'NaN': tensor.isnan(), 'infinite': tensor.isinf()}
    return ' or '.join(name for name, found in kinds.items() if bool(found.any()))


def tensors_of(value: Any, path: str = '') -> Iterator[tuple[str, Tensor]]:
    """Tensors in tuples, lists, dicts and objects of fields, with their places.

    Args:
        value (Any): What a module takes or returns.
        path (str): Its place. Defaults to ''.

    Yields:
        tuple[str, Tensor]: Such as ``['loss_pixel']`` or ``.tokens``, and the tensor.
    """
    if isinstance(value, Tensor):
        yield path, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from tensors_of(item, f'{path}[{key!r}]')
    elif hasattr(value, '_fields'):  # a named tuple
        for name in value._fields:
            yield from tensors_of(getattr(value, name), f'{path}.{name}')
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            yield from tensors_of(item, f'{path}[{index}]')
