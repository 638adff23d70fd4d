"""Features for the Fréchet distance: Inception, or any registered backbone.

An extractor maps images in [0, 1] to one vector each and can tell in words what it
does, because a Fréchet distance means nothing without its protocol. The networks stand
in :class:`~mergevq_mm.models.utils.frozen.FrozenModel`: built at the first call.
"""

from __future__ import annotations

import functools
import os
import warnings
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mergevq_mm.registry import MODELS
from mergevq_mm.utils.checkpoint import fetch_file, load_pretrained

from .weights import check_weights_path

INCEPTION_URLS = {
    'pytorch-fid': 'https://github.com/mseitzer/pytorch-fid/releases/download/'
    'fid_weights/pt_inception-2015-12-05-6726825d.pth',
    'torchvision': 'https://download.pytorch.org/models/'
    'inception_v3_google-0cc3c7bd.pth',
    'stylegan': 'https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/'
    'metrics/inception-2015-12-05.pt',
}


class FeatureExtractor(nn.Module):
    """Maps images to feature vectors.

    Args:
        quantize (bool): Whether to round images to 8 bits first, as if they had been
            saved as PNG. Defaults to False, as in the authors' evaluation.
    """

    def __init__(self, quantize: bool = False) -> None:
        super().__init__()
        self.quantize = quantize

    def forward(self, image: Tensor) -> Tensor:
        """Extract features.

        Args:
            image (Tensor): B×3×H×W in [0, 1].

        Returns:
            Tensor: B×D.
        """
        image = image.clamp(0, 1)
        if self.quantize:
            image = image.mul(255).round().div(255)
        return self.extract(image)

    def load_weights(self) -> None:
        """Build and load the network now instead of at the first call."""
        model = getattr(self, 'model', None)
        if model is not None:
            model.init_weights()

    @abstractmethod
    def extract(self, image: Tensor) -> Tensor:
        """Features B×D of images B×3×H×W in [0, 1]."""

    def protocol(self) -> dict[str, Any]:
        """What has to be known to compare two Fréchet distances."""
        return {'rounding': '8 bit' if self.quantize else 'none'}


@MODELS.register_module()
class BackboneFeatures(FeatureExtractor):
    """Pooled features of any registered backbone.

    Args:
        network (dict): Config of the backbone; its ``init_cfg=dict(type='Pretrained',
            checkpoint=PATH_OR_URL, prefix=...)`` names the weights.
        mean (Sequence[float], optional): Channel means that it expects, in 0..255.
            Defaults to None, images in [-1, 1].
        std (Sequence[float], optional): Channel deviations. Defaults to None.
        input_size (int | tuple[int, int], optional): Size to resize to (bicubic,
            antialiased). Defaults to None, no resize.
        pool (str): How B×N×D tokens become a vector: 'avg' or 'cls' (the first one).
            B×D×h×w maps are always averaged. Defaults to 'avg'.
        quantize (bool): See the base class. Defaults to False.
        random_init (bool): Accept a backbone without weights, for tests. Defaults to
            False.

    Raises:
        ValueError: If ``network`` names no weights, or ``pool`` is unknown.
        FileNotFoundError: If the weights are a local file that is not there.
    """

    def __init__(
        self,
        network: dict,
        mean: float | Sequence[float] | None = None,
        std: float | Sequence[float] | None = None,
        input_size: int | tuple[int, int] | None = None,
        pool: str = 'avg',
        quantize: bool = False,
        random_init: bool = False,
    ) -> None:
        super().__init__(quantize)
        if pool not in ('avg', 'cls'):
            raise ValueError(
                f"pool={pool!r} of BackboneFeatures is not known; choose 'avg' or "
                "'cls'."
            )
        init_cfg = network.get('init_cfg') or {}
        self.weights = init_cfg.get('checkpoint') or network.get('checkpoint_path')
        check_weights_path(self.weights, 'checkpoint')
        self.model = _frozen(network, mean, std, input_size, random_init=random_init)
        self.name = '/'.join(
            str(network[key])
            for key in ('type', 'model_name', 'arch')
            if key in network
        )
        self.pool = pool

    def extract(self, image: Tensor) -> Tensor:
        """Features B×D of images B×3×H×W in [0, 1]."""
        output = self.model(image * 2 - 1)
        while isinstance(output, (tuple, list)):
            output = output[-1]
        if output.dim() == 4:
            return output.mean((2, 3))  # B×D×h×w -> B×D
        if output.dim() == 3:  # B×N×D -> B×D
            return output[:, 0] if self.pool == 'cls' else output.mean(1)
        return output

    def protocol(self) -> dict[str, Any]:
        """What has to be known to compare two Fréchet distances."""
        size = self.model.input_size
        weights = os.path.basename(self.weights) if self.weights else 'built in'
        return {
            'features': self.name,
            'weights': weights,
            'resize': f'bicubic antialiased to {size}' if size else 'none',
            **super().protocol(),
        }


@MODELS.register_module()
class InceptionFeatures(FeatureExtractor):
    """The 2048 pooled features of Inception-v3.

    Args:
        checkpoint (str, optional): Path or URL of the weights. Defaults to None, the
            style's own URL, which needs a network.
        style (str): Which file it is. Defaults to 'pytorch-fid':

            - 'pytorch-fid': weights of the 2015 TensorFlow network converted by
              pytorch-fid, resize to 299 bilinear; the authors' protocol;
            - 'stylegan': TorchScript file of StyleGAN2-ADA, which resizes by itself and
              takes 8-bit values (``quantize`` is then always on);
            - 'torchvision': torchvision's ImageNet weights; other numbers than FID's.
        quantize (bool): See the base class. Defaults to False.

    Raises:
        ValueError: If ``style`` is unknown, or (when loaded) the file has other
            weights.
        FileNotFoundError: If ``checkpoint`` is a path and there is no such file.
    """

    def __init__(
        self,
        checkpoint: str | None = None,
        style: str = 'pytorch-fid',
        quantize: bool = False,
    ) -> None:
        super().__init__(quantize or style == 'stylegan')
        if style not in INCEPTION_URLS:
            raise ValueError(
                f'style={style!r} of InceptionFeatures is not known; choose one of '
                f'{", ".join(INCEPTION_URLS)}.'
            )
        check_weights_path(checkpoint, 'checkpoint')
        self.style = style
        self.checkpoint = checkpoint or INCEPTION_URLS[style]
        build = _load_torchscript if style == 'stylegan' else _load_inception
        self.model = _frozen(functools.partial(build, self.checkpoint, style))

    def extract(self, image: Tensor) -> Tensor:
        """Features B×2048 of images B×3×H×W in [0, 1]."""
        if self.style == 'stylegan':
            values = image.mul(255).round()
            return self.model.network(values)
        image = F.interpolate(image, (299, 299), mode='bilinear', align_corners=False)
        return self.model(image * 2 - 1)

    def protocol(self) -> dict[str, Any]:
        """What has to be known to compare two Fréchet distances."""
        return {
            'features': f'Inception-v3 pool ({self.style})',
            'weights': os.path.basename(self.checkpoint),
            'resize': 'bilinear to (299, 299)',
            **super().protocol(),
        }


def _frozen(*args: Any, **kwargs: Any) -> nn.Module:
    """A frozen helper; the import of all models is left to those who need one."""
    from mergevq_mm.models.utils.frozen import FrozenModel

    return FrozenModel(*args, **kwargs)


class _TorchScript(nn.Module):
    """StyleGAN's script: images B×3×H×W in 0..255 to B×2048."""

    def __init__(self, script: nn.Module) -> None:
        super().__init__()
        self.script = script  # a child, for a script itself cannot be frozen

    def forward(self, image: Tensor) -> Tensor:
        return self.script(image, return_features=True)


def _load_inception(checkpoint: str, style: str) -> nn.Module:
    """Inception-v3 without its classifier, B×3×299×299 in [-1, 1] to B×2048."""
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # torchvision: `pretrained`, `init_weights`
        if style == 'pytorch-fid':
            from mmagic.evaluation.functional.fid_inception import fid_inception_v3

            network = fid_inception_v3(load_ckpt=False)
        else:
            from torchvision.models import inception_v3

            network = inception_v3(
                weights=None, aux_logits=True, transform_input=False, init_weights=False
            )
    load_pretrained(network, checkpoint, min_matched=1.0)
    network.fc = nn.Identity()
    return network


def _load_torchscript(checkpoint: str, style: str) -> nn.Module:
    """StyleGAN's Inception; ``style`` is there for the message."""
    path = str(fetch_file(checkpoint))
    try:
        return _TorchScript(torch.jit.load(path, map_location='cpu'))
    except RuntimeError as error:
        raise ValueError(
            f'checkpoint={checkpoint!r} of InceptionFeatures is no TorchScript file; '
            f'give the one of style={style!r}, or choose the style of this file.'
        ) from error
