"""``torch.export`` with a free batch: the parts of all variants, and the whole."""

from __future__ import annotations

import pytest
import tiny_mergevq as tiny
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from mergevq_mm.models.backbones import MergeVQEncoder
from mergevq_mm.models.decoders import MergeVQDecoder
from mergevq_mm.models.necks import GroupMapRecovery, SourceRecovery
from mergevq_mm.models.quantizers import LFQ

BITS, DIMS = 6, 32
HYBRID = dict(stem='hybrid', base_channels=8, num_res_blocks=1)
ARCHS = {
    'G': dict(HYBRID, channel_mult=(2, 4)),
    'G+R': dict(HYBRID, channel_mult=(1, 2, 4)),
    'R': dict(stem='patch', embed_dims=DIMS, patch_size=4),
}


def encoder(arch: str, **kwargs: object) -> MergeVQEncoder:
    heads = dict(num_layers=1, num_heads=2)
    return MergeVQEncoder({**ARCHS[arch], **heads}, img_size=16, **kwargs).eval()


def neck(**kwargs: object) -> SourceRecovery:
    return SourceRecovery(
        BITS, (4, 4), embed_dims=16, num_heads=2, feedforward_channels=32, **kwargs
    ).eval()


def decoder() -> MergeVQDecoder:
    return MergeVQDecoder(
        BITS, 8, (1, 2, 4), num_res_blocks=1, num_layers=1, num_heads=2
    ).eval()


def check(module: nn.Module, *inputs: object) -> None:
    """Export for batches of 2 to 64 and compare at 5."""
    batch = torch.export.Dim('batch', min=2, max=64)
    free = tree_map(lambda x: {0: batch} if isinstance(x, Tensor) else None, inputs)
    exported = torch.export.export(module, inputs, dynamic_shapes=free).module()
    many = [
        x.repeat_interleave(3, 0)[:5] if isinstance(x, Tensor) else x for x in inputs
    ]
    found, expected = exported(*many), module(*many)
    pairs = list(zip(tree_leaves(found), tree_leaves(expected), strict=True))
    assert pairs
    for a, b in pairs:
        torch.testing.assert_close(a, b)


class Call(nn.Module):
    """A module of one tensor, with the other arguments of its forward fixed."""

    def __init__(self, module: nn.Module, **kwargs: object) -> None:
        super().__init__()
        self.module, self.kwargs = module, kwargs

    def forward(self, x: Tensor) -> object:
        return self.module(x, **self.kwargs)


@pytest.mark.parametrize('arch', ARCHS)
@torch.no_grad()
def test_encoder(arch: str) -> None:
    net, x = encoder(arch), torch.randn(2, 3, 16, 16)
    check(net, x)
    check(Call(net, keep=0.5, mode='encode'), x)


@torch.no_grad()
def test_backbone_of_maps() -> None:
    net = encoder('G+R', keep=0.5, out_type='featmap', out_stages=(0,))
    check(net, torch.randn(2, 3, 16, 16))


@torch.no_grad()
def test_necks() -> None:
    codes, group = torch.randn(2, 9, BITS).sign(), torch.randint(9, (2, 16))
    check(GroupMapRecovery(), codes, group, (4, 4))
    for net in (neck(), neck(num_classes=3, first_places=True)):
        check(Call(net, group=None, grid=(2, 8)), codes)


class Whole(nn.Module):
    """Image to image, with the true source map and with the predicted one."""

    def __init__(self, keep: int) -> None:
        super().__init__()
        self.encoder, self.neck, self.decoder = encoder('G+R'), neck(), decoder()
        self.quantizer = LFQ(BITS, DIMS, (2, 4)).eval()
        self.keep = keep

    def forward(self, image: Tensor) -> list[Tensor]:
        merged = self.encoder.encode(image, self.keep)
        codes = self.quantizer(merged.tokens).codes
        grids = [self.neck(codes, g, merged.grid).tokens for g in (merged.group, None)]
        return [self.decoder(on_grid, merged.grid) for on_grid in grids]


@torch.no_grad()
def test_image_to_image() -> None:
    check(Whole(keep=9), torch.randn(2, 3, 16, 16))


class Reconstruct(nn.Module):
    """A MergeVQ as it is built."""

    def __init__(self) -> None:
        super().__init__()
        self.model = tiny.build_model().eval()

    def forward(self, image: Tensor) -> Tensor:
        return self.model.reconstruct(image, 9)


@torch.no_grad()
def test_a_whole_model() -> None:
    check(Reconstruct(), torch.rand(2, 3, tiny.SIZE, tiny.SIZE))
