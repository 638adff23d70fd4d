"""Entropy loss of look-up-free quantisation: time and memory, forward and backward.

Compares the factorised form of this package with the dense one, which makes the
tokens × 2^d probabilities, and with vector-quantize-pytorch's LFQ in training mode, on
the same tokens in one run. At few bits all three must give equal values and gradients.

The other two hold 5 to 7 arrays of tokens × 2^d float32, 1 GiB each for 1,024 tokens of
18 bits; on a CPU they take tens of seconds a turn, and a run of 4 turns minutes.

Example:
    python tools/benchmarks/lfq.py --tokens 256 1024 --check
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from statistics import median

import torch
from common import (
    MIB,
    add_arguments,
    interleaved,
    median_ratio,
    peak_memory,
    run_main,
    start,
)
from reporting import Report
from torch import Tensor

import mergevq_mm  # noqa: F401  (before torchvision and mmpretrain)
from mergevq_mm.models.quantizers.lfq_functional import (
    entropy,
    index_to_codes,
    mean_code_distribution,
    sample_entropy,
)

# What ours must reach at 18 bits and 1,024 tokens against the dense form.
FASTER, SMALLER = 10.0, 50.0
AGREE_BITS = 10
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-4}

Loss = Callable[[Tensor], Tensor]


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Benchmark of the LFQ entropy loss')
    parser.add_argument(
        '--tokens', type=int, nargs='+', default=[1024], help='default: 1024'
    )
    parser.add_argument('--bits', type=int, default=18, help='default: 18')
    parser.add_argument('--temperature', type=float, default=0.01, help='default: 0.01')
    parser.add_argument(
        '--spread',
        type=float,
        default=0.1,
        help="deviation of the tokens' components (default: 0.1)",
    )
    parser.add_argument('--no-dense', action='store_true', help='leave it out')
    parser.add_argument(
        '--no-vq-pytorch', action='store_true', help='leave vector-quantize-pytorch out'
    )
    parser.add_argument(
        '--check',
        action='store_true',
        help=f'fail unless ours is {FASTER:g} times faster and needs {SMALLER:g} times '
        'less memory than the dense form, with equal values and gradients',
    )
    add_arguments(parser, repeats=3)
    return parser.parse_args(argv)


def factorised(temperature: float) -> Loss:
    """Ours: H(token) - H(batch) without the 2^d axis."""

    def loss(z: Tensor) -> Tensor:
        batch = entropy(mean_code_distribution(z, temperature))
        return sample_entropy(z, temperature) - batch

    return loss


def dense(bits: int, temperature: float, device: torch.device) -> Loss:
    """The definition: softmax of 2 z·c / τ over all 2^d codes."""
    codes = index_to_codes(torch.arange(2**bits, device=device), bits)

    def loss(z: Tensor) -> Tensor:
        log_p = (2 / temperature * z @ codes.to(z.dtype).T).log_softmax(dim=-1)
        p = log_p.exp()
        per_token = -(p * log_p).sum(dim=-1).mean()
        mean = p.mean(dim=0)
        tiny = torch.finfo(z.dtype).tiny
        return per_token + (mean * mean.clamp_min(tiny).log()).sum()

    return loss


def vq_pytorch(bits: int, temperature: float, device: torch.device) -> Loss | None:
    """vector-quantize-pytorch's layer as a user calls it, None where not installed."""
    try:
        from vector_quantize_pytorch import LFQ
    except ImportError:
        return None
    layer = LFQ(
        codebook_size=2**bits,
        dim=bits,
        entropy_loss_weight=1.0,
        diversity_gamma=1.0,
        commitment_loss_weight=0.0,
        force_quantization_f32=False,
    )
    layer = layer.to(device).train()

    def loss(z: Tensor) -> Tensor:
        # In double precision, the agreement must not depend on a float32 codebook.
        layer.codebook = layer.codebook.to(z.dtype)
        return layer(z[None], inv_temperature=1 / temperature).entropy_aux_loss

    return loss


def losses(
    args: argparse.Namespace, bits: int, device: torch.device
) -> dict[str, Loss]:
    """The forms to compare by name, ours first."""
    found = {'factorised (ours)': factorised(args.temperature)}
    if not args.no_vq_pytorch:
        theirs = vq_pytorch(bits, args.temperature, device)
        if theirs is not None:
            found['vector-quantize-pytorch'] = theirs
    if not args.no_dense:
        found['dense'] = dense(bits, args.temperature, device)
    return found


def step(loss: Loss, z: Tensor) -> tuple[Tensor, Tensor]:
    """Value, and gradient in the tokens."""
    z = z.detach().requires_grad_()
    value = loss(z)
    (gradient,) = torch.autograd.grad(value, z)
    return value.detach(), gradient


def measure(args: argparse.Namespace, device: torch.device, report: Report) -> bool:
    """Time and memory at ``args.bits``; whether ours keeps its promises."""
    good = True
    forms = losses(args, args.bits, device)
    for tokens in args.tokens:
        z = args.spread * torch.randn(tokens, args.bits, device=device)
        work = {name: lambda f=form, z=z: step(f, z) for name, form in forms.items()}
        # The memory is measured first, which warms up as well.
        memory = {name: peak_memory(run, device) for name, run in work.items()}
        seconds = interleaved(work, args.repeats, device, warmup=0)
        base = 'dense' if 'dense' in forms else None
        for name in forms:
            faster = base and median_ratio(seconds[base], seconds[name])
            smaller = base and memory[base] / memory[name]
            report.add(
                tokens=tokens,
                form=name,
                milliseconds=1e3 * median(seconds[name]),
                mib=memory[name] / MIB,
                faster=faster,
                smaller=smaller,
            )
            if base and name.startswith('factorised'):
                good = good and faster >= FASTER and smaller >= SMALLER
    return good


def agreement(args: argparse.Namespace, device: torch.device) -> tuple[Report, bool]:
    """Differences of value and gradient at few bits from the dense form in double."""
    report = Report(
        f'Agreement with the dense form in float64 at {AGREE_BITS} bits, 256 tokens',
        {
            'form': 'form',
            'dtype': 'precision',
            'value': 'value difference|.1e',
            'gradient': 'largest gradient difference|.1e',
            'largest': 'largest gradient|.1e',
        },
        argparse.Namespace(json=None),  # a part of the other's file
        device,
    )
    good = True
    exact = dense(AGREE_BITS, args.temperature, device)
    z = args.spread * torch.randn(256, AGREE_BITS, device=device, dtype=torch.float64)
    value, gradient = step(exact, z)
    for name, form in losses(args, AGREE_BITS, device).items():
        for dtype in (torch.float64, torch.float32):
            if (name, dtype) == ('dense', torch.float64):
                continue
            other, slope = step(form, z.to(dtype))
            off = (other.double() - value).abs().item()
            bent = (slope.double() - gradient).abs().max().item()
            report.add(
                form=name,
                dtype=str(dtype).removeprefix('torch.'),
                value=off,
                gradient=bent,
                largest=gradient.abs().max().item(),
            )
            if name.startswith('factorised'):
                good = good and max(off, bent) <= TOLERANCE[dtype]
    return report, good


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    if args.check and args.no_dense:
        raise ValueError('--check compares with the dense form; leave --no-dense out.')
    device = start(args)
    report = Report(
        f'LFQ entropy loss, forward and backward, {args.bits} bits, float32',
        {
            'tokens': 'tokens|d',
            'form': 'form',
            'milliseconds': 'time (ms)|.1f',
            'mib': 'peak memory (MiB)|,.1f',
            'faster': 'times faster than dense|.1f',
            'smaller': 'times less memory|.1f',
        },
        args,
        device,
    )
    equal, agrees = agreement(args, device)
    if any(row['form'].startswith('vector') for row in equal.rows):
        equal.note(
            'vector-quantize-pytorch clamps probabilities at 1e-5 inside the '
            'logarithm: hence its difference, and more of it at 18 bits.'
        )
    equal.show()
    fast = measure(args, device, report)
    verdict = {'agrees': agrees, 'fast_and_small': None if args.no_dense else fast}
    report.show(agreement=equal.rows, **verdict)
    if args.check and not (agrees and fast):
        print(f'missed: agrees={agrees}, fast and small enough={fast}')
        return 1
    return 0


if __name__ == '__main__':
    run_main(main)
