"""GroupNorm and SiLU as one: the numbers of both, in the layout of the map."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.testing import assert_close

from mergevq_mm.models.decoders import MergeVQDecoder
from mergevq_mm.models.utils import norm_silu as module
from mergevq_mm.models.utils.convolution import ResidualBlock, group_norm
from mergevq_mm.models.utils.norm_silu import fuse_norms, norm_silu, normed_silu

LAST = torch.channels_last


def norm_of(channels: int, groups: int) -> nn.GroupNorm:
    norm = group_norm(channels, groups)
    nn.init.normal_(norm.weight), nn.init.normal_(norm.bias)
    return norm


def gradients(out: Tensor, *of: Tensor) -> tuple[Tensor, ...]:
    weight = torch.linspace(-1, 1, out.numel()).reshape(out.shape)
    return torch.autograd.grad((out * weight).sum(), of)


@pytest.mark.parametrize('layout', [torch.contiguous_format, LAST])
@pytest.mark.parametrize(('channels', 'groups'), [(12, 4), (8, 8), (6, 1)])
def test_it_is_the_pair(
    channels: int, groups: int, layout: torch.memory_format
) -> None:
    norm, x = norm_of(channels, groups), torch.randn(3, channels, 5, 7) + 2
    x = x.to(memory_format=layout).requires_grad_()
    expected = F.silu(norm(x))
    found = normed_silu(x, norm.num_groups, norm.weight, norm.bias, norm.eps)
    assert_close(found, expected)
    assert found.stride() == x.stride()
    of = (x, norm.weight, norm.bias)
    for one, other in zip(gradients(found, *of), gradients(expected, *of)):
        assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_half_precision_is_rounded_once() -> None:
    norm, x = norm_of(12, 4), (torch.randn(2, 12, 5, 7) * 3 + 50).bfloat16()
    found = normed_silu(x, 4, norm.weight, norm.bias, norm.eps)
    assert found.dtype == torch.bfloat16
    expected = F.silu(norm(x.float()))
    assert_close(found.float(), expected, rtol=2**-8, atol=1e-6)  # half a last place


def test_only_where_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def compiled(backend: str) -> object:
        calls.append(backend)
        return normed_silu

    monkeypatch.setattr(module, 'compiled', compiled)
    norm, x = norm_of(12, 4), torch.randn(2, 12, 5, 7)
    assert torch.equal(norm_silu(norm, x, fused=True), F.silu(norm(x)))  # on a CPU
    monkeypatch.setattr(module, 'DEVICES', ('cpu',))
    norm_silu(norm, x, fused=False)
    assert not calls
    assert_close(norm_silu(norm, x, fused=True), F.silu(norm(x)))
    decoder = MergeVQDecoder(
        bits=4, base_channels=8, channel_mult=(1, 2), num_res_blocks=1, num_layers=1,
        num_heads=2,
    )  # fmt: skip
    codes = torch.randn(2, 6, 4)
    with torch.no_grad():
        expected = decoder(codes, (2, 3))
        assert len(calls) == 1
        found = fuse_norms(decoder.to(memory_format=LAST))(codes, (2, 3))
    blocks = sum(isinstance(part, ResidualBlock) for part in decoder.modules())
    assert len(calls) == 1 + 2 * blocks + 1  # two of each block, one of the image
    assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_a_compiler_that_fails_is_replaced() -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError('no C compiler')

    norm, x = norm_of(12, 4), torch.randn(2, 12, 5, 7)
    run = module.compiled.__wrapped__(broken)
    with pytest.warns(
        RuntimeWarning, match='(?s)cannot be compiled here.*no C compiler'
    ):
        found = run(x, 4, norm.weight, norm.bias, norm.eps)
    assert torch.equal(found, F.silu(norm(x)))
    run(x, 4, norm.weight, norm.bias, norm.eps)  # without a word


@pytest.mark.slow
@pytest.mark.parametrize('train', [False, True])
def test_compiled_it_is_the_pair_in_few_kernels(train: bool) -> None:
    """On a CPU; the pair by itself makes two copies more on a GPU."""
    from torch._inductor import config, metrics

    norm = norm_of(32, 8).requires_grad_(train)
    x = torch.randn(2, 32, 16, 16).to(memory_format=LAST).requires_grad_(train)
    torch._dynamo.reset()
    metrics.reset()
    run = torch.compile(normed_silu, fullgraph=True)
    with config.patch(force_disable_caches=True):  # what is cached is not generated
        found = run(x, norm.num_groups, norm.weight, norm.bias, norm.eps)
    kernels = metrics.generated_kernel_count
    expected = F.silu(norm(x))
    assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert found.stride() == x.stride()
    if train:
        of = (x, norm.weight, norm.bias)
        for one, other in zip(gradients(found, *of), gradients(expected, *of)):
            assert_close(one, other, rtol=1e-4, atol=1e-4)
    else:  # forward alone; with gradients the backward pass is counted in
        assert 0 < kernels <= 4


@pytest.mark.gpu
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_on_a_gpu(dtype: torch.dtype) -> None:
    """Values and gradients of the pair, and the layout of the map."""
    norm = norm_of(64, 32).cuda()
    for height in (16, 24, 32):
        x = torch.randn(4, 64, height, 16, device='cuda', dtype=dtype)
        x = x.to(memory_format=LAST).requires_grad_()
        found, expected = norm_silu(norm, x, True), F.silu(norm(x.float())).to(dtype)
        assert found.is_contiguous(memory_format=LAST) and found.dtype == dtype
        close = dict(rtol=2e-2, atol=2e-2) if dtype == torch.bfloat16 else {}
        assert_close(found, expected, **close)
        of = (x, norm.weight, norm.bias)
        grads = [
            torch.autograd.grad(y.float().square().sum(), of) for y in (found, expected)
        ]
        for one, other in zip(*grads, strict=True):
            scale = other.float().abs().max()
            assert (one - other).float().abs().max() <= 2e-2 * scale
