"""Drawing codes: temperature, top-k, top-p, guidance, a stream of noise a sample."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor

SCHEDULES = ('constant', 'linear')
# For each option the kind of its numbers, which are good, and what to give instead.
RANGES: dict[str, tuple[type, Callable[[Any], bool], str]] = {
    'temperature': (Real, lambda v: v >= 0, 'numbers of at least 0; 0 is greedy'),
    'top_k': (
        Integral,
        lambda v: v >= 0,
        'whole numbers of at least 0; 0 keeps all values',
    ),
    'top_p': (Real, lambda v: 0 < v <= 1, 'numbers in (0, 1]; 1 keeps all values'),
    'guidance': (
        Real,
        lambda v: v >= 0,
        'finite numbers of at least 0; 1 is no guidance',
    ),
}


def filter_logits(
    logits: Tensor, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0
) -> Tensor:
    """Sharpen logits and take the unlikely values out.

    Args:
        logits (Tensor): …×V.
        temperature (float): 0 leaves the likeliest value alone. Defaults to 1.
        top_k (int): Keep the k likeliest values; 0 keeps all. Defaults to 0.
        top_p (float): Keep the likeliest values that together reach this probability,
            at least one. Defaults to 1, all.

    Returns:
        Tensor: …×V float32, -inf at what is out.
    """
    logits = logits.float()
    if temperature == 0:
        best = logits.argmax(dim=-1, keepdim=True)
        only = torch.full_like(logits, -torch.inf)
        return only.scatter_(-1, best, 0.0)
    if temperature != 1:
        logits = logits / temperature
    if 0 < top_k < logits.shape[-1]:
        least = logits.topk(top_k, dim=-1).values[..., -1:]
        logits = logits.masked_fill(logits < least, -torch.inf)
    if top_p < 1:
        ranked, order = logits.sort(dim=-1, descending=True)
        chance = ranked.softmax(dim=-1)
        # Out is what comes after the values that reach top_p.
        out = chance.cumsum(dim=-1) - chance >= top_p
        out[..., 0] = False
        out = torch.zeros_like(out).scatter(-1, order, out)
        logits = logits.masked_fill(out, -torch.inf)
    return logits


def draw(logits: Tensor, uniform: Tensor) -> Tensor:
    """Draw values by inversion of the distribution function.

    Args:
        logits (Tensor): …×V, not all -inf.
        uniform (Tensor): Numbers in [0, 1), of the shape … .

    Returns:
        Tensor: … int64.
    """
    cumulative = logits.double().softmax(dim=-1).cumsum(dim=-1)
    # Rounding leaves the last sum near 1; a value of chance 0 is never reached so.
    level = uniform.double().unsqueeze(-1) * cumulative[..., -1:]
    return torch.searchsorted(cumulative, level, right=True).squeeze(-1)


def guide(logits: Tensor, scale: Tensor | float) -> Tensor:
    """Classifier-free guidance: from the unconditional logits past the conditional.

    Args:
        logits (Tensor): 2B×…; first the conditional ones, then the unconditional.
        scale (Tensor | float): 1 is no guidance.

    Returns:
        Tensor: B×….
    """
    given, free = logits.float().unflatten(0, (2, -1))
    guided: Tensor = free + scale * (given - free)
    return guided


def guidance_scale(scale: float, share: float, schedule: str) -> float:
    """Guidance at a point of the sequence.

    Args:
        scale (float): Of the whole ('constant') or at the end ('linear', from 1).
        share (float): Done share of the sequence, in [0, 1].
        schedule (str): 'constant' or 'linear'.

    Returns:
        float: Scale.
    """
    return scale if schedule == 'constant' else 1 + (scale - 1) * share


def sample_seeds(seed: int, first: int, count: int) -> list[int]:
    """Seeds of the samples ``first``, ``first + 1``, … of a run.

    They depend on the run's seed and the sample's number alone, not on the batch or
    the rank that draws it.

    Args:
        seed (int): Of the run.
        first (int): Number of the first sample.
        count (int): How many.

    Returns:
        list[int]: In [0, 2^63).
    """
    names = (f'{seed}/{number}'.encode() for number in range(first, first + count))
    return [int.from_bytes(hashlib.sha256(n).digest()[:8], 'big') >> 1 for n in names]


def uniform_noise(
    seeds: Sequence[int], shape: Sequence[int], device: torch.device | str
) -> Tensor:
    """Numbers in [0, 1), a stream a sample.

    Args:
        seeds (Sequence[int]): One a sample.
        shape (Sequence[int]): Of one sample's numbers.
        device (torch.device): Where they are needed; they are drawn on the CPU, so
            that they are the same everywhere.

    Returns:
        Tensor: B×shape float64, in which they are compared; of float32's values.
    """
    streams = (torch.Generator().manual_seed(seed) for seed in seeds)
    noise = torch.stack([torch.rand(*shape, generator=s) for s in streams])
    return noise.double().to(device)


def check_sampling(parts: int, **options: Any) -> None:
    """Refuse options of drawing that cannot be meant.

    Args:
        parts (int): Parts of a code; an option is one number or one for each of them.
        **options (Any): ``temperature``, ``top_k``, ``top_p``, ``guidance`` and
            ``guidance_schedule``, any of them.

    Raises:
        ValueError: If one is not known, out of range, or for another number of parts.
    """
    for name, value in options.items():
        if name == 'guidance_schedule':
            if value not in SCHEDULES:
                raise ValueError(
                    f"guidance_schedule='{value}' is not known; choose one of "
                    f'{", ".join(SCHEDULES)}.'
                )
            continue
        if name not in RANGES:
            known = ', '.join([*RANGES, 'guidance_schedule'])
            raise ValueError(
                f'{name}={value} is no option of sampling here; leave it out, or use '
                f'one of {known}.'
            )
        values = value if isinstance(value, (list, tuple)) else [value] * parts
        if len(values) != parts:
            raise ValueError(
                f'{name}={value} is for {len(values)} parts, but a code has {parts}; '
                'give one number, or one for each part.'
            )
        kind, good, remedy = RANGES[name]
        if not all(is_number(v, kind) and good(v) for v in values):
            raise ValueError(f'{name}={value} is out of range; give {remedy}.')


def is_number(value: Any, kind: type = Real) -> bool:
    """Whether a value is a finite number of a kind (True and False are none)."""
    good = isinstance(value, kind) and not isinstance(value, bool)
    return good and math.isfinite(value)


def check_count(name: str, value: Any, least: int, remedy: str) -> None:
    """Refuse what is no whole number of at least ``least``.

    Raises:
        ValueError: With the remedy.
    """
    if not is_number(value, Integral) or value < least:
        raise ValueError(
            f'{name}={value} is no whole number of at least {least}; {remedy}.'
        )
