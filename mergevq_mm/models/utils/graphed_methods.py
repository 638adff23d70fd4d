"""Methods of a network for inference as CUDA graphs, one for each shape of the input.

Blocks of attention on a few hundred tokens are many small kernels, whose starts take a
GPU's host longer than the GPU their work; a graph is one start. A class names in
``GRAPHED`` which of its methods are like that. What large convolutions do keeps a GPU
busy anyway, and would only hold their maps in the pool of the graphs.

A shape that comes once runs as it is; when it comes again it is captured. As it is runs
also what needs gradients, trains, is compiled, or is on another device.
"""

from __future__ import annotations

import copy
import threading
import warnings
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map, tree_unflatten

from .cuda_graphs import graphs_of, no_autocast_cache, places_of

SHAPES = 8  # that a method keeps
DEVICES = ('cuda',)
Network = TypeVar('Network', bound=nn.Module)


class Recording:
    """One shape of a method's arguments: static memory, and what fills it again.

    Args:
        work (Callable): The method.
        leaves (list): Its arguments, flattened.
        spec (Any): How they are put together.
    """

    def __init__(self, work: Callable[..., Any], leaves: list[Any], spec: Any) -> None:
        with torch.inference_mode(False), torch.no_grad():
            self.leaves = [
                leaf.clone() if isinstance(leaf, Tensor) else leaf for leaf in leaves
            ]
            graphs = graphs_of(self.tensors[0].device)
            arguments, options = tree_unflatten(self.leaves, spec)

            def run() -> Any:
                with no_autocast_cache():
                    return work(*arguments, **options)

            found: list[Any] = []
            graphs.warm_up(lambda: found.append(run()))
            # Beside the pool, in which any other graph may overwrite what it likes.
            self.out = tree_map(_clone, found.pop())
            self.replay = graphs.capture(lambda: _copy(run(), self.out))

    @property
    def tensors(self) -> list[Tensor]:
        """list[Tensor]: Among the arguments."""
        return [leaf for leaf in self.leaves if isinstance(leaf, Tensor)]

    def __call__(self, leaves: list[Any]) -> Any:
        """Do the work on other arguments of the same shapes."""
        tensors = (leaf for leaf in leaves if isinstance(leaf, Tensor))
        for static, given in zip(self.tensors, tensors, strict=True):
            static.copy_(given)
        self.replay()
        return tree_map(_clone, self.out)


class GraphedMethod:
    """A method of a network that is captured for the shapes that come again.

    A copy of the network gets a method of its own, without any captures.

    Args:
        module (nn.Module): The network.
        name (str): Of its method, which takes and returns tensors in tuples, lists or
            dicts, and whatever else is hashable.
    """

    def __init__(self, module: nn.Module, name: str) -> None:
        self.module, self.name = module, name
        self.recordings: OrderedDict[Hashable, Recording | None] = OrderedDict()
        self.places: tuple[int, ...] = ()
        self.failed = False
        self.lock = threading.Lock()

    def __deepcopy__(self, memo: dict[int, Any]) -> GraphedMethod:
        return GraphedMethod(copy.deepcopy(self.module, memo), self.name)

    def __reduce__(self) -> tuple[Any, ...]:
        return GraphedMethod, (self.module, self.name)

    def plain(self, *arguments: Any, **options: Any) -> Any:
        """The method as its class has it."""
        return getattr(type(self.module), self.name)(self.module, *arguments, **options)

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        """See the method."""
        if self.failed or torch.compiler.is_compiling():
            return self.plain(*arguments, **options)
        leaves, spec = tree_flatten((arguments, options))
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        if not self._capturable(tensors):
            return self.plain(*arguments, **options)
        with self.lock:
            key = (repr(spec), *map(_kind, leaves), _precision(tensors[0]))
            recording = self._recording(key, leaves, spec)
            if recording is not None:
                return recording(leaves)
        return self.plain(*arguments, **options)

    def _recording(
        self, key: Hashable, leaves: list[Any], spec: Any
    ) -> Recording | None:
        """What does the work for arguments of a kind; None the first time."""
        places = places_of([self.module])
        if places != self.places:  # weights lie elsewhere than when it was captured
            self._drop(list(self.recordings))
            self.places = places
        again = key in self.recordings
        recording = self.recordings.pop(key, None)
        if again and recording is None:
            try:
                recording = Recording(self.plain, leaves, spec)
            except RuntimeError as error:
                self.failed = True
                warnings.warn(
                    f'{type(self.module).__name__}.{self.name} cannot be captured as '
                    f'a CUDA graph and runs as it is: {error}',
                    RuntimeWarning,
                )
        self.recordings[key] = recording  # the last one; the oldest one goes
        if len(self.recordings) > SHAPES:
            self._drop([next(iter(self.recordings))])
        return recording

    def _capturable(self, tensors: list[Tensor]) -> bool:
        """Whether all is on one device that captures, and a result is all of it.

        Parts that train draw random numbers, hooks would not be called, and gradients
        may be wanted. A network whose parts are frozen may itself be said to train.
        """
        devices = {tensor.device for tensor in tensors}
        devices |= {p.device for p in self.module.parameters()}
        if len(devices) != 1 or devices.pop().type not in DEVICES:
            return False
        for part in self.module.modules():
            if part.training and part is not self.module:
                return False
            if part._forward_hooks or part._forward_pre_hooks:
                return False
        if not torch.is_grad_enabled():
            return True
        wanted = (*tensors, *self.module.parameters())
        return not any(tensor.requires_grad for tensor in wanted)

    def _drop(self, keys: list[Hashable]) -> None:
        """Forget what was captured for some kinds of arguments, once it is done."""
        for key in keys:
            recording = self.recordings.pop(key)
            if recording is not None:
                graphs_of(recording.tensors[0].device).wait()


def use_graphs(model: Network) -> Network:
    """Let the methods that a model's parts name in ``GRAPHED`` be captured.

    Args:
        model (nn.Module): Changed in place; it may go to another device later. Nothing
            happens where it is not on a GPU.

    Returns:
        nn.Module: The same.
    """
    for module in model.modules():
        for name in getattr(type(module), 'GRAPHED', ()):
            if name not in vars(module):
                setattr(module, name, GraphedMethod(module, name))
    return model


def _kind(leaf: Any) -> Hashable:
    """What has to be the same of an argument."""
    if isinstance(leaf, Tensor):
        return (tuple(leaf.shape), leaf.dtype, leaf.device)
    kind: Hashable = leaf
    return kind


def _precision(like: Tensor) -> torch.dtype | None:
    """What autocast, if it is on, makes of a call."""
    kind = like.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None


def _clone(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) else value


def _copy(values: Any, to: Any) -> None:
    for new, old in zip(tree_leaves(values), tree_leaves(to), strict=True):
        if isinstance(old, Tensor):
            old.copy_(new)
