"""Stages that are computed again in the backward pass: the same numbers, less kept."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from mergevq_mm.models.backbones import MergeVQEncoder
from mergevq_mm.models.decoders import MergeVQDecoder

ARCH = dict(
    stem='hybrid',
    base_channels=8,
    channel_mult=(1, 2, 2),
    num_res_blocks=2,
    num_layers=2,
    num_heads=2,
)


def encoder(**kwargs: int) -> tuple[nn.Module, Callable[[nn.Module], Tensor]]:
    x = torch.randn(2, 3, 32, 32)
    network = MergeVQEncoder(ARCH, img_size=32, **kwargs)
    return network, lambda network: network.encode(x, 20).tokens


def decoder(**kwargs: int) -> tuple[nn.Module, Callable[[nn.Module], Tensor]]:
    codes = torch.randn(2, 64, 6).sign()
    network = MergeVQDecoder(6, 8, (1, 2, 2), 2, num_layers=2, num_heads=2, **kwargs)
    return network, lambda network: network(codes, (8, 8))


def run(make: Callable, stages: int) -> tuple[Tensor, list[Tensor], int, int]:
    """Output, gradients, bytes kept for them, and how often convolutions ran."""
    torch.manual_seed(0)
    network, forward = make(recompute_stages=stages)
    kept, calls = {}, []
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(lambda *_: calls.append(1))

    def pack(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, nn.Parameter):
            storage = tensor.untyped_storage()
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        out = forward(network)
    out.square().sum().backward()
    grads = [parameter.grad for parameter in network.parameters()]
    return out.detach(), grads, sum(kept.values()), len(calls)


@pytest.mark.parametrize('make', [encoder, decoder])
def test_gradients_are_equal_and_less_is_kept(make: Callable) -> None:
    found = [run(make, stages) for stages in range(4)]
    for stages, (out, grads, kept, calls) in enumerate(found[1:], 1):
        assert torch.equal(out, found[0][0])
        for one, other in zip(grads, found[0][1], strict=True):
            assert (one is None) == (other is None)
            assert one is None or torch.equal(one, other)
        assert kept < found[stages - 1][2] and calls > found[stages - 1][3]
    assert found[1][2] < 0.7 * found[0][2]  # the full resolution is most of it


@pytest.mark.parametrize('make', [encoder, decoder])
@pytest.mark.parametrize('stages', [-1, 4])
def test_stages_that_are_not_there_are_refused(make: Callable, stages: int) -> None:
    with pytest.raises(ValueError, match=rf'recompute_stages={stages} .* \[0, 3\]'):
        make(recompute_stages=stages)


def test_patches_have_no_stage_to_recompute() -> None:
    arch = dict(stem='patch', embed_dims=8, patch_size=4, num_layers=1, num_heads=2)
    with pytest.raises(ValueError, match=r'recompute_stages=1 .* \[0, 0\]'):
        MergeVQEncoder(arch, img_size=16, recompute_stages=1)


def test_nothing_is_recomputed_without_gradients() -> None:
    network, forward = encoder(recompute_stages=3)
    calls = []
    network.stem.conv_in.register_forward_hook(lambda *_: calls.append(1))
    network.stem.stages[0].register_forward_hook(lambda *_: calls.append(1))
    with torch.no_grad():
        assert not forward(network).requires_grad
    assert len(calls) == 2
