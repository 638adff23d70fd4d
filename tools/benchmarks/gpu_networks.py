"""Sections of the report on a GPU: the card, the entropy, attention and encoders."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from typing import Any

import encoder as encoders
import lfq
import size_attention
import torch
from common import MIB, peak_memory
from gpu_setting import Setting, no_output, operators
from reporting import Report
from torch import Tensor

from mergevq_mm.models.backbones.mergevq_encoder import MergeVQEncoder
from mergevq_mm.models.utils.merging_operators import (
    means_by_sums,
    merge_groups,
    pairs_by_sorting,
    split_pairs,
)

# Encoder, K, and whether all of it is measured or its blocks alone.
ENCODERS = [('r-base', 36, True), ('g-d64', 256, False), ('g+r-d64', 144, False)]
SMALL_PATCH = dict(stem='patch', embed_dims=32, patch_size=4, num_layers=3, num_heads=2)
Section = Callable[..., Report]


def card(setting: Setting, section: Section) -> None:
    """What the card can do: copies, products, starts of kernels."""
    report = section('The card', {'work': 'work', 'rate': 'rate|,.1f', 'unit': 'unit'})
    report.add(
        work='copying, read and written', rate=setting.bandwidth / 1e9, unit='GB/s'
    )
    rate = setting.matrix_rate / 1e12
    report.add(work='product, bfloat16', rate=rate, unit='TFLOP/s')
    rate = setting.rate_of_product(torch.float32) / 1e12
    report.add(work='product, float32', rate=rate, unit='TFLOP/s')
    x, number = torch.zeros(8, device=setting.device), 10 if setting.small else 1000

    def starts() -> None:
        for _ in range(number):
            x.add_(1)

    ways = {'eager': starts}
    if setting.gpu:
        ways['graph'] = setting.captured(starts)
    for name, work in ways.items():
        each = 1e6 * setting.timed(work) / number
        report.add(work=f'start of a kernel, {name}', rate=each, unit='µs')


def entropy(setting: Setting, section: Section) -> None:
    """The entropy loss, ours and by the definition."""
    bits, tokens = (8, 64) if setting.small else (18, 4096)
    report = section(
        f'LFQ entropy, {bits} bits, {tokens:,} tokens, float32, forward and backward',
        {
            'form': 'form',
            'ms': 'time (ms)|.2f',
            'mib': 'MiB|,.0f',
            'operators': 'operators|d',
        },
    )
    z = 0.1 * torch.randn(tokens, bits, device=setting.device)
    args = argparse.Namespace(temperature=0.01, no_vq_pytorch=True, no_dense=False)
    for name, form in lfq.losses(args, bits, setting.device).items():
        report.attempt(
            partial(_launches, setting, partial(lfq.step, form, z)), form=name
        )


def _launches(setting: Setting, work: Callable[[], Any]) -> dict[str, float | None]:
    """Memory, time and launches of a piece of work."""
    return dict(
        mib=peak_memory(work, setting.device) / MIB,
        ms=1e3 * setting.timed(work),
        operators=operators(work),
        kernels=setting.kernels(work),
    )


@torch.no_grad()
def merging(setting: Setting, section: Section) -> None:
    """What merging adds to a block but products: by kernels, and by operators."""
    batch, cases = 64, [(257, 18, 768), (1025, 64, 512)]  # the first of R and G
    if setting.small:
        batch, cases = 2, [(65, 9, 32)]
    report = section(
        f'Pairs and means of one block that merges, {batch} images, float32',
        {
            'shape': 'tokens, pairs, width',
            'way': 'way',
            'ms': 'time (ms)|.3f',
            'mib': 'MiB|,.1f',
            'operators': 'operators|d',
            'kernels': 'kernels|d',
        },
    )
    for length, r, width in cases:
        tokens = torch.randn(batch, length, width, device=setting.device)
        size = torch.randint(1, 9, (batch, length), device=setting.device).float()
        best = torch.rand(batch, (length - 1) // 2, device=setting.device)
        partner = torch.randint_like(best, length // 2).long()
        for way, operators_of_it in {
            'kernels': (split_pairs, merge_groups),
            'operators': (pairs_by_sorting, means_by_sums),
        }.items():
            work = partial(_merge, *operators_of_it, tokens, size, best, partner, r)
            measure = partial(_launches, setting, work)
            report.attempt(measure, shape=f'{length}, {r}, {width}', way=way)


def _merge(
    pairs: Callable,
    means: Callable,
    tokens: Tensor,
    size: Tensor,
    best: Tensor,
    partner: Tensor,
    r: int,
) -> Tensor:
    """Means of the groups of the r best pairs."""
    return means(tokens, size, *pairs(best, partner, r))[0]


@torch.no_grad()
def attention(setting: Setting, section: Section) -> None:
    """Attention to tokens of several sizes: by a mask, a channel, and without."""
    batch, shapes = 64, dict(size_attention.SHAPES)
    if setting.small:
        batch, shapes = 2, {'49x12': shapes['49x12']}
    report = section(
        f'Attention with sizes, bfloat16, batches of {batch}, width 64',
        {
            'shape': 'tokens x heads',
            'way': 'sizes',
            'ms': 'time (ms)|.3f',
            'ratio': 'over none|.2f',
            'operators': 'operators|d',
            'kernels': 'kernels|d',
        },
    )
    for name, (length, heads) in shapes.items():
        made = dict(device=setting.device, dtype=torch.bfloat16)
        qkv = torch.randn(batch, length, 3, heads, 64, **made)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        size = torch.randint(1, 9, (batch, length), device=setting.device).float()
        none = None
        for way, attend in size_attention.WAYS.items():
            work = partial(attend, query, key, value, size)
            took = setting.timed(work)
            none = took if none is None else none
            report.add(
                shape=name,
                way=way,
                ms=1e3 * took,
                ratio=took / none,
                operators=operators(work),
                kernels=setting.kernels(work),
            )


def encoder_modes(
    setting: Setting, work: Callable[[], Tensor]
) -> dict[str, Callable[[], Callable]]:
    """For each way to run a piece of work what makes it, the slowest to make last."""

    def amp(run: Callable[[], Tensor]) -> Callable[[], None]:
        def inside() -> Tensor:
            with torch.autocast(setting.device.type, torch.bfloat16):
                return run()

        return no_output(inside)

    modes = {'eager': lambda: amp(work)}
    if setting.gpu:
        modes['graph'] = lambda: setting.captured(amp(work))
        modes['compile'] = lambda: amp(torch.compile(work, fullgraph=True))
        modes['compile-graph'] = lambda: setting.captured(modes['compile']())
    return modes


def encoder(setting: Setting, section: Section) -> None:
    """Encoders with and without merging, in each mode."""
    batch, size, cases = 64, 256, ENCODERS
    if setting.small:
        batch, size, cases = 2, 32, [(SMALL_PATCH, 16, True), (SMALL_PATCH, 16, False)]
    report = section(
        f'Encoders, bfloat16, {batch} images of {size} px, forward',
        {
            'arch': 'encoder',
            'part': 'part',
            'mode': 'mode',
            'plain': 'plain (ms)|.2f',
            'merged': 'merged (ms)|.2f',
            'ratio': 'ratio|.2f',
            'bound': 'bound|.2f',
            'operators_plain': 'operators, plain|d',
            'operators': 'operators, merged|d',
            'kernels_plain': 'kernels, plain|d',
            'kernels': 'kernels, merged|d',
        },
    )
    report.note(
        'bound: multiply-accumulates without merging over those with it, matching left '
        'out. operators: of the eager work; kernels: counted while the mode ran.'
    )
    prepared = [_case(setting, batch, size, *each) for each in cases]
    modes = encoder_modes(setting, lambda: torch.empty(0))
    for mode in modes:  # what is slow to make comes after all the rest
        for case, known in prepared:
            measure = partial(_measured, setting, case, known, mode)
            report.attempt(measure, **known, mode=mode)


def _case(
    setting: Setting, batch: int, size: int, arch: Any, keep: int, whole: bool
) -> tuple[encoders.Case, dict[str, Any]]:
    """One encoder at one K, and what its rows have in common."""
    model = MergeVQEncoder(arch, size).to(setting.device).eval().requires_grad_(False)
    image = torch.randn(batch, 3, size, size, device=setting.device)
    case = encoders.Case(model, image, keep)
    macs = encoders.operations(case, arch, whole)
    work = case.work(whole)
    return case, {
        'arch': arch if isinstance(arch, str) else arch['stem'],
        'part': 'whole' if whole else 'blocks',
        'bound': macs['plain'] / (macs['merged'] - macs['matching']),
        'operators_plain': operators(no_output(work['plain'])),
        'operators': operators(no_output(work['merged'])),
    }


def _measured(
    setting: Setting, case: encoders.Case, known: dict[str, Any], mode: str
) -> dict[str, Any]:
    """Times and kernels of a case in one mode."""
    work, found = case.work(known['part'] == 'whole'), {}
    for name in ('plain', 'merged'):
        run = encoder_modes(setting, work[name])[mode]()
        found[name] = 1e3 * setting.timed(run)
        found['kernels' if name == 'merged' else 'kernels_plain'] = setting.kernels(run)
    return {**found, 'ratio': found['plain'] / found['merged']}
