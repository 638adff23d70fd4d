"""Maps at several strides from the one map of an isotropic encoder, for detectors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from timm.layers import LayerNorm2d
from torch import Tensor, nn
from torch.nn import functional as F

from mergevq_mm.base.module import BaseModule
from mergevq_mm.registry import MODELS


@MODELS.register_module()
class SimpleFeaturePyramid(BaseModule):
    """Resample the last map of a plain encoder to each scale on its own.

    The simple feature pyramid of ViTDet (Li et al., 2022): transposed convolutions
    enlarge the map, max pooling shrinks it, then each level gets a 1×1 and a 3×3
    convolution with layer norms. There is no path from level to level.

    Differences: pooling keeps the last row or column of an odd map.

    Args:
        in_channels (int): Channels of the encoder's map, D.
        out_channels (int): Channels of each level, C. Defaults to 256.
        scales (Sequence[float]): Size of each level over that of the map, powers of
            two, falling. Defaults to (4, 2, 1, 0.5): strides 4 to 32 from stride 16.
        num_outs (int, optional): Number of levels; those beyond ``scales`` halve the
            last one again and again. Defaults to None, as many as ``scales``.
        extra_convs (bool): Whether 3×3 convolutions make those further levels, as for
            RetinaNet, and not subsampling, as for Mask R-CNN. Defaults to False.
        init_cfg (dict, optional): Initialization. Defaults to None.

    Raises:
        ValueError: If a scale is no power of two, is too large for the channels, or
            there are fewer levels than scales.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int = 256,
        scales: Sequence[float] = (4, 2, 1, 0.5),
        num_outs: int | None = None,
        extra_convs: bool = False,
        init_cfg: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(init_cfg)
        num_outs = len(scales) if num_outs is None else num_outs
        if not scales or num_outs < len(scales):
            raise ValueError(
                f'num_outs={num_outs} does not fit the {len(scales)} scales '
                f'{tuple(scales)}; give at least one scale and as many levels.'
            )
        self.levels = nn.ModuleList()
        for octave in map(_octave, scales):
            if octave > 0 and in_channels % 2**octave:
                raise ValueError(
                    f'in_channels={in_channels} cannot be halved {octave} times, once '
                    f'for each doubling of the map; leave out the scale {2**octave}.'
                )
            resample, width = _resample(in_channels, octave)
            self.levels.append(
                nn.Sequential(
                    *resample,
                    nn.Conv2d(width, out_channels, 1, bias=False),
                    LayerNorm2d(out_channels),
                    nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False),
                    LayerNorm2d(out_channels),
                )
            )
        self.num_extra = num_outs - len(scales)
        self.extra = nn.ModuleList(
            nn.Conv2d(out_channels, out_channels, 3, stride=2, padding=1)
            for _ in range(self.num_extra if extra_convs else 0)
        )

    def forward(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Make the levels, the finest first.

        Args:
            inputs (Sequence[Tensor]): The encoder's one map, B×D×h×w.

        Returns:
            tuple[Tensor]: For each scale s B×C×(s h)×(s w), then the further levels,
            each half the size of the one before, rounded up.

        Raises:
            ValueError: If there are several maps.
        """
        if len(inputs) != 1:
            raise ValueError(
                f'inputs holds {len(inputs)} maps, but a simple feature pyramid takes '
                'one; set out_indices=-1 and out_stages=() of the encoder.'
            )
        outs = [level(inputs[0]) for level in self.levels]
        for i in range(self.num_extra):
            if self.extra:
                outs.append(self.extra[i](outs[-1]))
            else:
                outs.append(F.max_pool2d(outs[-1], kernel_size=1, stride=2))
        return tuple(outs)


def _octave(scale: float) -> int:
    """The n of a scale 2^n."""
    mantissa, exponent = math.frexp(scale)
    if mantissa != 0.5:
        raise ValueError(
            f'scale {scale} is no power of two; choose from 4, 2, 1, 0.5, 0.25.'
        )
    return exponent - 1


def _resample(channels: int, octave: int) -> tuple[list[nn.Module], int]:
    """Layers that multiply the size of a map by 2^octave, and their channels."""
    if octave < 0:
        stride = 2**-octave
        return [nn.MaxPool2d(stride, stride, ceil_mode=True)], channels
    layers: list[nn.Module] = []
    for i in range(octave):
        if i > 0:
            layers += [LayerNorm2d(channels), nn.GELU()]
        layers.append(nn.ConvTranspose2d(channels, channels // 2, 2, stride=2))
        channels //= 2
    return layers, channels
