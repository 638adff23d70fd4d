"""Perceptual losses: LPIPS, and its unlearned form on any registered backbone.

Both compare unit-normalised feature maps of a frozen network (arXiv 1801.03924). LPIPS
weighs the channels with learned numbers that the ``lpips`` package ships; the
torchvision weights under them come from a path or a URL.

Differences: ``lpips`` has a NaN gradient wherever all channels of a map are 0, as
behind a ReLU on a black background; here that gradient is 0.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mergevq_mm.base.module import BaseModule
from mergevq_mm.registry import MODELS
from mergevq_mm.utils.checkpoint import load_checkpoint_file

from ..utils.frozen import FrozenModel
from ..utils.precision import no_autocast

LPIPS_NETS = {
    'vgg': 'https://download.pytorch.org/models/vgg16-397923af.pth',
    'alex': 'https://download.pytorch.org/models/alexnet-owt-7be5be79.pth',
    'squeeze': 'https://download.pytorch.org/models/squeezenet1_1-b8a52dc0.pth',
}


def unit_normalize(feature: Tensor, eps: float = 1e-10) -> Tensor:
    """Scales each position's channel vector to length 1, a zero vector to 0.

    Args:
        feature (Tensor): B×C×h×w.
        eps (float): Added to the length. Defaults to 1e-10, as in ``lpips``.

    Returns:
        Tensor: B×C×h×w, with a finite gradient everywhere.
    """
    square = feature.square().sum(dim=1, keepdim=True)
    length = square.clamp(min=torch.finfo(square.dtype).tiny).sqrt()
    return feature / (length + eps)


def feature_distance(
    features: Sequence[Tensor],
    targets: Sequence[Tensor],
    weights: Sequence[Tensor | float] | None = None,
) -> Tensor:
    """Squared distance of unit-normalised maps, summed over channels and maps.

    Args:
        features (Sequence[Tensor]): Maps of the reconstruction, B×C_i×h_i×w_i.
        targets (Sequence[Tensor]): Maps of the image, of the same shapes.
        weights (Sequence[Tensor | float], optional): For each map a number or weights
            of its channels, C_i×1×1. Defaults to None, 1 everywhere.

    Returns:
        Tensor: One distance per image, averaged over positions, B.
    """
    total = features[0].new_zeros(features[0].shape[0])
    for i, (feature, target) in enumerate(zip(features, targets)):
        square = (unit_normalize(feature) - unit_normalize(target)).square()
        if weights is not None:
            square = square * weights[i]
        total = total + square.sum(dim=1).mean(dim=(1, 2))  # B×C×h×w -> B
    return total


@MODELS.register_module()
class PerceptualLoss(BaseModule):
    """Distance of the feature maps of any registered backbone: LPIPS without learning.

    Args:
        network (dict | nn.Module | Callable): A backbone that returns a tuple of maps,
            as :class:`FrozenModel` takes it, for example ``dict(type=
            'mmpretrain.TIMMBackbone', features_only=True, init_cfg=...)``.
        mean (Sequence[float], optional): Channel means of the backbone in 0..255.
            Defaults to None, images in [-1, 1] as they come.
        std (Sequence[float], optional): Channel deviations. Defaults to None.
        input_size (int | tuple[int, int], optional): Size to resize to. Defaults to
            None.
        weights (Sequence[float], optional): Weight of each map. Defaults to None, 1.
        loss_weight (float): Weight of the term. Defaults to 1.
        random_init (bool): Accept a backbone without weights. Defaults to False.
        channels_last (bool): Memory format of images and weights. Defaults to True.
    """

    def __init__(
        self,
        network: dict[str, Any] | nn.Module,
        mean: float | Sequence[float] | None = None,
        std: float | Sequence[float] | None = None,
        input_size: int | tuple[int, int] | None = None,
        weights: Sequence[float] | None = None,
        loss_weight: float = 1.0,
        random_init: bool = False,
        channels_last: bool = True,
    ) -> None:
        super().__init__()
        self.model = FrozenModel(
            network,
            mean,
            std,
            input_size,
            fp32=True,
            random_init=random_init,
            channels_last=channels_last,
        )
        self.weights = weights
        self.loss_weight = loss_weight

    def distance(self, recon: Tensor, image: Tensor) -> Tensor:
        """Unweighted distance of each image.

        Args:
            recon (Tensor): Reconstruction, B×3×H×W in [-1, 1].
            image (Tensor): Image, B×3×H×W in [-1, 1].

        Returns:
            Tensor: B.

        Raises:
            ValueError: If ``weights`` does not have one number for each map.
        """
        # Two calls: on the image no graph is kept (its gradient is never asked for).
        with torch.no_grad():
            targets = self.model(image)
        features = self.model(recon)
        if self.weights is not None and len(self.weights) != len(features):
            raise ValueError(
                f'weights={list(self.weights)} of PerceptualLoss must have one number '
                f'for each of the {len(features)} maps that its network returns.'
            )
        with no_autocast(recon):
            return feature_distance(features, targets, self.weights)

    def forward(self, recon: Tensor, image: Tensor) -> Tensor:
        """Weighted mean distance over the batch, a scalar."""
        return self.loss_weight * self.distance(recon, image).mean()


@MODELS.register_module()
class LPIPSLoss(BaseModule):
    """LPIPS with the learned weights of the ``lpips`` package.

    Args:
        net (str): 'vgg', 'alex' or 'squeeze'. Defaults to 'vgg', as in the paper.
        checkpoint (str, optional): Path or URL of torchvision's ImageNet weights of
            that network. Defaults to None, torchvision's own URL.
        input_size (int | tuple[int, int], optional): Size to resize to. Defaults to
            None.
        loss_weight (float): Weight of the term. Defaults to 1.

    Raises:
        ValueError: If ``net`` is unknown or the file has other weights.
        FileNotFoundError: If the weights are neither there nor can be downloaded (when
            they are loaded).
    """

    def __init__(
        self,
        net: str = 'vgg',
        checkpoint: str | None = None,
        input_size: int | tuple[int, int] | None = None,
        loss_weight: float = 1.0,
    ) -> None:
        super().__init__()
        if net not in LPIPS_NETS:
            raise ValueError(
                f'net={net!r} of LPIPSLoss is not known; choose one of '
                f'{", ".join(LPIPS_NETS)}.'
            )
        build = functools.partial(_LPIPSFeatures, net, checkpoint or LPIPS_NETS[net])
        self.model = FrozenModel(build, input_size=input_size, fp32=True)
        self.loss_weight = loss_weight

    def distance(self, recon: Tensor, image: Tensor) -> Tensor:
        """LPIPS of each reconstruction B×3×H×W in [-1, 1] from its image: B."""
        with torch.no_grad():
            targets = self.model(image)
        features = self.model(recon)
        network = self.model.network
        assert isinstance(network, _LPIPSFeatures)  # as it was given
        with no_autocast(recon):
            return feature_distance(features, targets, network.weights())

    def forward(self, recon: Tensor, image: Tensor) -> Tensor:
        """Weighted mean LPIPS over the batch, a scalar."""
        return self.loss_weight * self.distance(recon, image).mean()


class _LPIPSFeatures(nn.Module):
    """The scaled torchvision network of ``lpips`` and its learned channel weights."""

    def __init__(self, net: str, checkpoint: str) -> None:
        super().__init__()
        import lpips

        loaded = load_checkpoint_file(checkpoint)
        with warnings.catch_warnings():
            warnings.simplefilter('ignore', UserWarning)  # torchvision: `pretrained`
            self.lpips = lpips.LPIPS(net=net, pnet_rand=True, verbose=False)
        # lpips.net.slice<i>.<n> is torchvision's features.<n>.
        own = self.lpips.net.state_dict()
        names = {name: 'features.' + name.split('.', 1)[1] for name in own}
        missing = [
            source
            for name, source in names.items()
            if source not in loaded or loaded[source].shape != own[name].shape
        ]
        if missing:
            raise ValueError(
                f'checkpoint={checkpoint!r} of LPIPSLoss lacks {missing[0]!r} of '
                f'{net!r} in the right shape ({len(missing)} of {len(names)} weights '
                "missing); give torchvision's ImageNet weights of this network."
            )
        self.lpips.net.load_state_dict({k: loaded[v] for k, v in names.items()})

    def weights(self) -> list[Tensor]:
        """Learned weights of the channels of each map, C_i×1×1."""
        return [lin.model[-1].weight[0] for lin in self.lpips.lins]

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Maps of images B×3×H×W in [-1, 1]."""
        return tuple(self.lpips.net(self.lpips.scaling_layer(image)))
