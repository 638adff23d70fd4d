"""mmagic's discriminator is the one of spec section 9, so there is none of our own."""

import pytest
import torch
from torch import nn

import mergevq_mm  # noqa: F401
from mergevq_mm.registry import MODELS


def test_mmagic_discriminator_is_that_of_the_spec():
    disc = MODELS.build(
        dict(type='mmagic.PatchDiscriminator', in_channels=3, base_channels=64)
    )
    disc.init_weights()
    assert sum(p.numel() for p in disc.parameters()) == 2_765_633
    assert disc(torch.zeros(2, 3, 32, 32)).shape == (2, 1, 2, 2)
    convs = [m for m in disc.modules() if isinstance(m, nn.Conv2d)]
    assert [c.out_channels for c in convs] == [64, 128, 256, 512, 1]
    assert [c.stride[0] for c in convs] == [2, 2, 2, 1, 1]
    for conv in convs[:-1]:
        assert conv.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert sum(isinstance(m, nn.BatchNorm2d) for m in disc.modules()) == 3


@pytest.mark.parametrize('kind', ['SyncBN', 'GN'])
def test_other_norms(kind):
    norm_cfg = dict(type=kind, **({'num_groups': 8} if kind == 'GN' else {}))
    disc = MODELS.build(
        dict(
            type='mmagic.PatchDiscriminator',
            in_channels=3,
            base_channels=16,
            num_conv=2,
            norm_cfg=norm_cfg,
        )
    )
    norm = {'SyncBN': nn.SyncBatchNorm, 'GN': nn.GroupNorm}[kind]
    assert sum(isinstance(m, norm) for m in disc.modules()) == 2
