"""The feature pyramid of the isotropic encoder: values, sizes, refusals."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from mergevq_mm.models.necks import SimpleFeaturePyramid
from mergevq_mm.registry import MODELS


def randomise(neck: SimpleFeaturePyramid) -> SimpleFeaturePyramid:
    """Every parameter random, so that none hides behind 0 or 1."""
    for parameter in neck.parameters():
        parameter.data.normal_(std=0.3)
    return neck


def norm(x: torch.Tensor, layer: torch.nn.Module) -> torch.Tensor:
    """Normalise the vector of each position."""
    mean = x.mean(dim=1, keepdim=True)
    variance = ((x - mean) ** 2).mean(dim=1, keepdim=True)
    scale, shift = layer.weight[:, None, None], layer.bias[:, None, None]
    return (x - mean) / (variance + layer.eps).sqrt() * scale + shift


def enlarge(x: torch.Tensor, layer: torch.nn.ConvTranspose2d) -> torch.Tensor:
    """A 2×2 transposed convolution of stride 2: each vector becomes four."""
    batch, _, height, width = x.shape
    out = torch.empty(batch, layer.out_channels, 2 * height, 2 * width)
    for i in range(2):
        for j in range(2):
            made = torch.einsum('bchw,cd->bdhw', x, layer.weight[:, :, i, j])
            out[:, :, i::2, j::2] = made + layer.bias[:, None, None]
    return out


@torch.no_grad()
def test_values_against_plain_formulas() -> None:
    neck = randomise(SimpleFeaturePyramid(8, 6, scales=(4, 2, 1, 0.5)))
    x = torch.randn(2, 8, 4, 6)
    outs = neck((x,))
    up4, up2, same, half = neck.levels
    wide = F.gelu(norm(enlarge(x, up4[0]), up4[1]))
    pooled = x.view(2, 8, 2, 2, 3, 2).amax(dim=(3, 5))
    resampled = (enlarge(wide, up4[3]), enlarge(x, up2[0]), x, pooled)
    for level, y, out in zip((up4, up2, same, half), resampled, outs):
        one, first, three, second = level[-4:]
        assert one.bias is None and three.bias is None
        y = torch.einsum('bchw,dc->bdhw', y, one.weight[:, :, 0, 0])
        y = norm(F.conv2d(norm(y, first), three.weight, padding=1), second)
        torch.testing.assert_close(out, y, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('extra_convs', [False, True])
@torch.no_grad()
def test_odd_maps_and_further_levels(extra_convs: bool) -> None:
    neck = randomise(
        SimpleFeaturePyramid(8, 6, (2, 1, 0.5), num_outs=5, extra_convs=extra_convs)
    )
    outs = neck([torch.randn(1, 8, 7, 9)])
    sizes = [tuple(out.shape[2:]) for out in outs]
    assert sizes == [(14, 18), (7, 9), (4, 5), (2, 3), (1, 2)]
    assert all(out.shape[1] == 6 for out in outs)
    if extra_convs:
        assert len(neck.extra) == 2
        assert torch.equal(outs[4], neck.extra[1](neck.extra[0](outs[2])))
    else:
        assert not neck.extra
        assert torch.equal(outs[3], outs[2][:, :, ::2, ::2])
        assert torch.equal(outs[4], outs[2][:, :, ::4, ::4])


def test_it_is_registered_and_every_parameter_learns() -> None:
    neck = MODELS.build(
        {
            'type': 'mergevq_mm.SimpleFeaturePyramid',
            'in_channels': 8,
            'out_channels': 4,
            'num_outs': 6,
            'extra_convs': True,
        }
    )
    outs = neck([torch.randn(2, 8, 8, 8)])
    assert len(outs) == 6
    sum((out * torch.randn_like(out)).sum() for out in outs).backward()
    for name, parameter in neck.named_parameters():
        assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ({'scales': (3,)}, 'scale 3 is no power of two'),
        ({'scales': (0,)}, 'no power of two'),
        ({'scales': ()}, 'at least one scale'),
        ({'scales': (2, 1), 'num_outs': 1}, 'num_outs=1 does not fit'),
        ({'in_channels': 6, 'scales': (4,)}, 'in_channels=6 cannot be halved 2 times'),
    ],
)
def test_refusals(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SimpleFeaturePyramid(**{'in_channels': 8, **arguments})


def test_several_maps_are_refused() -> None:
    x = torch.randn(1, 8, 2, 2)
    with pytest.raises(ValueError, match='inputs holds 2 maps'):
        SimpleFeaturePyramid(8, 4)((x, x))
