"""Merging by operators of one kernel each: references, kernels, and what they start."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
from torch import Tensor

from mergevq_mm.models.backbones.mergevq_encoder import MergeVQEncoder
from mergevq_mm.models.utils import merging_operators
from mergevq_mm.models.utils.attention import MergingBlock
from mergevq_mm.models.utils.merging_operators import (
    gradient_by_places,
    means_by_sums,
    merge_groups,
    pairs_by_sorting,
    split_pairs,
)
from mergevq_mm.utils.operator_count import count_operators

REPO = Path(__file__).parents[2]
CASES = [(17, 8, 8), (17, 3, 5), (16, 7, 1), (10, 1, 40), (34, 12, 3), (2, 0, 4)]


@pytest.fixture
def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """The operators on a CPU: each runs its reference."""
    monkeypatch.setattr(merging_operators, 'DEVICES', ('cpu', 'cuda'))
    monkeypatch.setattr(merging_operators, 'kernels', lambda: None)
    monkeypatch.setattr(merging_operators, '_failed', set())


def a_layer(
    length: int,
    r: int,
    width: int,
    sized: bool = True,
    dtype: torch.dtype | None = None,
) -> tuple[tuple, tuple]:
    """Arguments of both operators, of three images with ties and other rarities."""
    best = torch.randn(3, (length - 1) // 2)
    best[:, 1::3] = best[:, :1]
    best[1, :1], best[2, 2:3] = -0.0, float('nan')
    best[1, 1:2], best[2, 3:4] = 0.0, float('inf')
    # Few partners: many join the same one.
    partner = torch.randint(min(length // 2, 3), best.shape)
    tokens = torch.randn(3, length, width)
    size = torch.randint(1, 300, (3, length)).float() if sized else None
    pairs = pairs_by_sorting(best, partner, r)
    return (best, partner, r), (tokens, size, *pairs)


@pytest.mark.parametrize('sized', [True, False])
def test_operators_are_their_references(sized: bool) -> None:
    matched, merged = a_layer(17, 6, 8, sized)
    for found, expected in zip(split_pairs(*matched), pairs_by_sorting(*matched)):
        assert torch.equal(found, expected) and found.is_contiguous()
    grads, weight = [], torch.randn(3, 11, 8)
    for way in (merge_groups, means_by_sums):
        tokens = merged[0].clone().requires_grad_()
        means, sizes = way(tokens, *merged[1:])
        assert not sizes.requires_grad
        grads += torch.autograd.grad((means**2 * weight).sum(), tokens)
    torch.testing.assert_close(*grads)
    assert torch.equal(means, merge_groups(*merged)[0])


def test_compilers_are_told_the_truth() -> None:
    """Of shapes, of what is changed, and of gradients."""
    matched, merged = a_layer(17, 6, 8)
    torch.library.opcheck(split_pairs, matched)
    for tokens in (merged[0], merged[0].bfloat16(), merged[0].requires_grad_()):
        torch.library.opcheck(merge_groups, (tokens, *merged[1:]))


@pytest.mark.parametrize('merged_before', [False, True])
def test_a_gpu_starts_few_operators(merged_before: bool, as_on_a_gpu: None) -> None:
    block, x = MergingBlock(16, 2), torch.randn(2, 17, 16)
    size = torch.randint(1, 5, (2, 17)).float() if merged_before else None

    def total(r: int) -> int:
        with count_operators() as found:
            block(x, size, (), r)
        return found.total()

    assert total(5) - total(0) <= 8


def test_an_encoder_is_the_same(request: pytest.FixtureRequest) -> None:
    arch = dict(stem='patch', embed_dims=16, patch_size=4, num_layers=3, num_heads=2)
    model, image = MergeVQEncoder(arch, 32).eval(), torch.randn(2, 3, 32, 32)
    expected = model.encode(image, 20)
    request.getfixturevalue('as_on_a_gpu')
    found = model.encode(image, 20)
    assert torch.equal(found.group, expected.group)
    assert torch.equal(found.tokens, expected.tokens)


def test_a_kernel_that_fails_is_replaced(
    as_on_a_gpu: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def means(*arguments: Tensor) -> None:
        calls.append(len(arguments))
        raise (torch.OutOfMemoryError if len(calls) == 1 else RuntimeError)('why')

    monkeypatch.setattr(
        merging_operators, 'kernels', lambda: SimpleNamespace(means=means)
    )
    _, merged = a_layer(17, 6, 8)
    with pytest.raises(torch.OutOfMemoryError):
        merge_groups(*merged)
    with pytest.warns(RuntimeWarning, match="kernel of 'means' does not run here"):
        found = merge_groups(*merged)
    assert torch.equal(found[0], means_by_sums(*merged)[0])
    merge_groups(*merged)
    assert calls == [5, 5]


# ------------------------------------------------------------------------- the kernels


def compare(kernels: ModuleType, to: Callable[[Tensor], Tensor], error: float) -> None:
    """Kernels against their references, in all cases."""
    close = dict(rtol=error, atol=error)

    def moved(values: tuple) -> tuple:
        return tuple(to(v) if isinstance(v, Tensor) else v for v in values)

    for number, case in enumerate(CASES):
        sized = number % 2 == 0
        matched, merged = a_layer(*case, sized)
        for found, expected in zip(
            kernels.pairs(*moved(matched)), pairs_by_sorting(*matched), strict=True
        ):
            assert torch.equal(found.cpu(), expected)
        means, weight = means_by_sums(*merged)
        found = kernels.means(*moved(merged))
        torch.testing.assert_close(found[0].cpu(), means, **close)
        assert torch.equal(found[1].cpu(), weight)
        after = (torch.randn_like(means), merged[1], weight, *merged[2:])
        torch.testing.assert_close(
            kernels.gradient(*moved(after)).cpu(), gradient_by_places(*after), **close
        )
        half = merged[0].bfloat16()
        found = kernels.means(*moved((half, *merged[1:])))[0]
        assert found.dtype == torch.bfloat16
        expected = means_by_sums(half, *merged[1:])[0]
        torch.testing.assert_close(found.cpu(), expected, rtol=1e-2, atol=1e-2)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_kernels_are_their_references() -> None:
    """Without a GPU, by an interpreter, which a process has to begin with."""
    pytest.importorskip('triton')
    run = subprocess.run(
        [sys.executable, __file__],
        env={**os.environ, 'TRITON_INTERPRET': '1', 'PYTHONPATH': str(REPO)},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr


@pytest.mark.slow
@pytest.mark.parametrize('sized', [True, False])
def test_kernels_compile_without_a_gpu(sized: bool) -> None:
    """To the machine code of an H100."""
    triton = pytest.importorskip('triton')
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from mergevq_mm.models.utils import merging_kernels

    known = dict.fromkeys(('best', 'weight', 'tokens', 'means', 'grad', 'out'), '*fp32')
    known |= dict.fromkeys(('partner', 'kept', 'merged', 'target'), '*i64')
    known |= dict.fromkeys(('length', 'width', 'side', 'r'), 'i32')
    known['size'] = '*fp32' if sized else '*i64'
    constants = dict(SIDE=128, SIZED=sized, D=1024, R=32)
    for name in ('_pairs', '_means', '_gradient'):
        kernel = getattr(merging_kernels, name)
        of_it = {k: v for k, v in constants.items() if k in kernel.arg_names}
        signature = {k: known.get(k, 'constexpr') for k in kernel.arg_names}
        source = ASTSource(fn=kernel, signature=signature, constexprs=of_it)
        made = triton.compile(source, target=GPUTarget('cuda', 90, 32))
        assert 'cubin' in made.asm


@pytest.mark.gpu
@pytest.mark.parametrize('device', ['cuda:0', 'cuda:1'])
def test_kernels_on_a_gpu(device: str) -> None:
    if torch.device(device).index >= torch.cuda.device_count():
        pytest.skip('there is one GPU')
    found = merging_operators.kernels()
    if found is None:
        pytest.skip('there is no Triton')
    compare(found, lambda tensor: tensor.to(device), 1e-5)


@pytest.mark.gpu
def test_a_gpu_uses_the_kernels() -> None:
    if merging_operators.kernels() is None:
        pytest.skip('there is no Triton')
    block, x = MergingBlock(64, 4).cuda(), torch.randn(2, 65, 64, device='cuda')
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(merging_operators, '_failed', set())
        x.requires_grad_()
        block(x, None, (), 16)[0].square().sum().backward()
        assert not merging_operators._failed
    assert x.grad is not None


if __name__ == '__main__':
    from mergevq_mm.models.utils import merging_kernels

    merging_kernels.WIDTH = 16  # several programs for the channels
    compare(merging_kernels, lambda tensor: tensor, 1e-6)
