"""A frozen pre-trained network that a model uses without owning it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any
from weakref import WeakValueDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mergevq_mm.base.module import BaseModule
from mergevq_mm.registry import MODELS
from mergevq_mm.utils.checkpoint import load_pretrained

from .precision import no_autocast


class FrozenModel(BaseModule):
    """Holds a frozen network: neither parameters, nor checkpoint entries, nor copies.

    The network stands in a plain list, so that it is no child module: the optimizers,
    DDP, EMA and ``state_dict`` do not see it. It is always in evaluation mode, and
    gradients flow through it to the images. It is built and its weights are loaded
    once, by :meth:`init_weights`, which the Runner calls before training, or else at
    the first use: a model that is only used for inference never needs the file.

    A network is never changed. ``.to()``, ``.half()``, … take one of the new device and
    type in its place, so that deep copies of a model share a network as long as they
    agree on both, and none moves that of another.

    Args:
        network (dict | nn.Module | Callable): Config of a network of any registry,
            whose ``init_cfg=dict(type='Pretrained', checkpoint=PATH_OR_URL)`` names the
            weights (also ``prefix``, the part of the file to take, and ``submodule``,
            the part of the network to fill); or a ready module; or a function without
            arguments that returns a ready module.
        mean (Sequence[float], optional): Channel means that the network expects, in
            grey values of 0..255 as in OpenMMLab's preprocessors. Defaults to None,
            127.5: images in [-1, 1] as they come.
        std (Sequence[float], optional): Channel deviations. Defaults to None, 127.5.
        input_size (int | tuple[int, int], optional): Height and width to which images
            are resized (bicubic, antialiased) first. Defaults to None, no resize.
        fp32 (bool): Whether to compute in the network's own precision even under
            autocast. Defaults to True.
        random_init (bool): Accept a network without pre-trained weights: it is
            initialised under a fixed seed, equally on all ranks. Defaults to False.
        channels_last (bool): Memory format of images and weights; on CPUs it makes
            depth-wise convolutions 2 to 3 times faster. Defaults to True.

    Raises:
        ValueError: If ``network`` names no weights and ``random_init`` is False, or the
            checkpoint matches none of its parameters (when the weights are loaded).
        FileNotFoundError: If there is no such checkpoint (when it is loaded).
    """

    _scale: Tensor
    _shift: Tensor

    def __init__(
        self,
        network: dict[str, Any] | nn.Module | Callable[[], nn.Module],
        mean: float | Sequence[float] | None = None,
        std: float | Sequence[float] | None = None,
        input_size: int | tuple[int, int] | None = None,
        fp32: bool = True,
        random_init: bool = False,
        channels_last: bool = True,
    ) -> None:
        super().__init__()
        # A list hides a module from nn.Module; it is filled later.
        self._network: list[nn.Module] = []
        self._shared = _Shared(None if isinstance(network, nn.Module) else network)
        if isinstance(network, dict) and not random_init and not _has_weights(network):
            raise ValueError(
                f'network={network.get("type")!r} of a frozen model has no weights; '
                "add init_cfg=dict(type='Pretrained', checkpoint=PATH_OR_URL) to it, "
                'or set random_init=True for a test.'
            )
        size = (input_size, input_size) if isinstance(input_size, int) else input_size
        self.input_size = None if size is None else tuple(size)
        self.fp32 = fp32
        self._memory_format = (
            torch.channels_last if channels_last else torch.contiguous_format
        )
        scale, shift = _affine(mean, std)
        self.register_buffer('_scale', scale, persistent=False)  # 1 or 3 × 1 × 1
        self.register_buffer('_shift', shift, persistent=False)
        if isinstance(network, nn.Module):
            given = network
            self._take(lambda: self._frozen(given))

    @property
    def network(self) -> nn.Module:
        """nn.Module: The network, built and loaded on first use."""
        return self._ready()

    def _ready(self) -> nn.Module:
        # Not in the property: nn.Module replaces an AttributeError raised in one.
        if not self._network:
            source = self._shared.source
            assert source is not None  # what came ready has been taken
            self._take(lambda: self._frozen(_build_seeded(source)))
        return self._network[0]

    def _take(self, make: Callable[[], nn.Module]) -> None:
        """Take the network of this device and type, made where there is none yet."""
        self._network[:] = [self._shared.at(self._scale, make)]

    def _frozen(self, network: nn.Module) -> nn.Module:
        network.eval()  # mmpretrain's backbones return None here: no chaining
        network.requires_grad_(False)
        network.to(device=self._scale.device, dtype=self._scale.dtype)
        # torch's types know this argument beside others alone.
        network.to(memory_format=self._memory_format)  # type: ignore[call-overload]
        return network

    def init_weights(self) -> None:
        """Builds the network and loads its weights, unless that is done already."""
        self._ready()
        self.is_init = True

    def normalize(self, image: Tensor) -> Tensor:
        """Brings images B×3×H×W in [-1, 1] to what the network expects."""
        image = image.to(self._scale.dtype)
        if self.input_size is not None and image.shape[-2:] != self.input_size:
            image = F.interpolate(
                image, self.input_size, mode='bicubic', antialias=True
            )
        image = torch.addcmul(self._shift, image, self._scale)
        return image.contiguous(memory_format=self._memory_format)

    def forward(self, *images: Tensor) -> Any:
        """Calls the network on normalised images.

        Args:
            *images (Tensor): B×3×H×W in [-1, 1] each.

        Returns:
            Any: What the network returns.
        """
        network = self._ready()
        if not self.fp32:
            return network(*map(self.normalize, images))
        with no_autocast(images[0]):
            return network(*map(self.normalize, images))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]  # torch's
        if self._network:
            self._take(lambda: _moved(self._network[0], self._scale))
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> FrozenModel:
        """Copies everything but the network, which both share: it never changes."""
        clone = type(self).__new__(type(self))
        memo[id(self)] = clone
        memo.update((id(shared), shared) for shared in (self._shared, *self._network))
        clone.__dict__.update(copy.deepcopy(self.__dict__, memo))
        return clone


class _Shared:
    """What deep copies share: the source of a network, and those made of it.

    Args:
        source (dict | Callable, optional): What builds it; None where it came ready.
    """

    def __init__(self, source: dict[str, Any] | Callable[[], nn.Module] | None) -> None:
        self.source = source
        # Weak: a network lives as long as some copy of the model uses it.
        self.networks = WeakValueDictionary[Any, nn.Module]()

    def at(self, like: Tensor, make: Callable[[], nn.Module]) -> nn.Module:
        """The network of a tensor's device and type, made where there is none yet."""
        place = like.device, like.dtype
        network = self.networks.get(place)
        if network is None:
            # Inference tensors, made in that mode, could not serve training later.
            with torch.inference_mode(False):
                network = self.networks[place] = make()
        return network

    def __getstate__(self) -> dict[str, Any]:
        """For pickle, which cannot store weak references."""
        return {'source': self.source}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.source = state['source']
        self.networks = WeakValueDictionary()


def _moved(network: nn.Module, like: Tensor) -> nn.Module:
    """A copy of a network with its tensors on another device or of another type."""
    memo: dict[int, Any] = {}
    for tensor in chain(network.parameters(), network.buffers()):
        dtype = like.dtype if tensor.is_floating_point() else tensor.dtype
        moved = tensor.to(like.device, dtype)
        if isinstance(tensor, nn.Parameter):
            moved = nn.Parameter(moved, requires_grad=False)
        memo[id(tensor)] = moved  # instead of a copy, which would be one too many
    copied = copy.deepcopy(network, memo)
    # What is no tensor of Python, as in a TorchScript, was copied as it was.
    return copied.to(device=like.device, dtype=like.dtype)


def _has_weights(network: dict[str, Any]) -> bool:
    init_cfg = network.get('init_cfg') or {}
    pretrained = isinstance(init_cfg, dict) and init_cfg.get('type') == 'Pretrained'
    return bool(
        pretrained or network.get('pretrained') or network.get('checkpoint_path')
    )


def _build_seeded(source: dict[str, Any] | Callable[[], nn.Module]) -> nn.Module:
    """Builds a network under a fixed seed.

    Ranks agree on it, and the run's own random numbers stay as they are.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return _from_config(source) if isinstance(source, dict) else source()


def _from_config(network: dict[str, Any]) -> nn.Module:
    """Builds a network of any registry and loads its weights strictly enough."""
    config = dict(network)
    init_cfg = config.pop('init_cfg', None)
    module: nn.Module = MODELS.build(config)
    if isinstance(init_cfg, dict) and init_cfg.get('type') == 'Pretrained':
        # A helper that is partly random is of no use: nearly all must be found.
        part = init_cfg.get('submodule') or ''
        load_pretrained(
            module.get_submodule(part),
            init_cfg['checkpoint'],
            prefix=init_cfg.get('prefix') or '',
            min_matched=0.95,
        )
    elif not _has_weights(network):
        getattr(module, 'init_weights', lambda: None)()
    return module


def _affine(
    mean: float | Sequence[float] | None, std: float | Sequence[float] | None
) -> tuple[Tensor, Tensor]:
    """Scale and shift that turn [-1, 1] into (grey value - mean) / std."""
    mean_ = torch.as_tensor(127.5 if mean is None else mean, dtype=torch.float32)
    std_ = torch.as_tensor(127.5 if std is None else std, dtype=torch.float32)
    for name, value in (('mean', mean_), ('std', std_)):
        if value.numel() not in (1, 3) or (name == 'std' and (value <= 0).any()):
            raise ValueError(
                f'{name}={value.tolist()} of a frozen model is not usable; give one or '
                'three numbers in grey values of 0..255, deviations above 0.'
            )
    if mean_.max() <= 1.0 and mean_.abs().sum() > 0:
        raise ValueError(
            f'mean={mean_.tolist()} of a frozen model looks like values of images in '
            '[0, 1]; give grey values of 0..255 (multiply by 255).'
        )
    scale, shift = 127.5 / std_, (127.5 - mean_) / std_
    return scale.reshape(-1, 1, 1), shift.reshape(-1, 1, 1)
