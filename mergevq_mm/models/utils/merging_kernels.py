"""Kernels of Triton for what merging does beside products; only for a GPU.

Each works for its references in :mod:`.merging_operators`. No two programs write to one
place, and each adds in one order: the numbers are the same in each run.
"""

# No annotations from the future: Triton reads which parameters are constants.
import torch
import triton
import triton.language as tl
from torch import Tensor

WIDTH = 1024  # the most channels of a program


@triton.jit(do_not_specialize=('side', 'r'))
def _pairs(
    best, partner, kept, merged, target, side, r, SIDE: tl.constexpr
):  # fmt: skip
    """One image: how many are more similar than each of its tokens."""
    image = tl.program_id(0).to(tl.int64)
    own = tl.arange(0, SIDE)
    there = own < side
    best += image * side
    mine = _ordered(tl.load(best + own, mask=there, other=0.0))
    rank = tl.zeros([SIDE], dtype=tl.int32)
    for i in range(side):
        other = _ordered(tl.load(best + i))
        # Of equal ones the first, as a stable sort has them.
        rank += ((other > mine) | ((other == mine) & (i < own))).to(tl.int32)
    joins, stays = there & (rank < r), there & (rank >= r)
    joined = tl.load(partner + image * side + own, mask=joins, other=0)
    tl.store(merged + image * r + rank, own.to(tl.int64), mask=joins)
    tl.store(target + image * r + rank, joined, mask=joins)
    place = tl.cumsum(stays.to(tl.int32), 0) - 1
    tl.store(kept + image * (side - r) + place, own.to(tl.int64), mask=stays)


@triton.jit
def _ordered(x):
    """Whole numbers in the order of floats, behind which is what is not a number."""
    bits = (x + 0.0).to(tl.int32, bitcast=True)  # there are two zeros
    ordered = tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits)
    return tl.where(x == x, ordered, 0x7FFFFFFF)


@triton.jit
def _group(kept, target, image, number, side, r, R: tl.constexpr):
    """A group of an image: its first member, and which pairs join it."""
    stay = side - r
    ranks = tl.arange(0, R)
    place = number - 1 - stay  # in B, if it is there
    a = tl.load(
        kept + image * stay + number - 1,
        mask=(number > 0) & (number <= stay),
        other=-1,  # leads to the class token
    )
    first = tl.where(place >= 0, 2 * place + 1, 2 * a + 2)
    to = tl.load(target + image * r + ranks, mask=ranks < r, other=-1)
    return first, (to == place) & (ranks < r) & (place >= 0)


@triton.jit
def _next(joins, last, merged, image, r, R: tl.constexpr):
    """The next one of the pairs after ``last``, and the token that joins by it."""
    ranks = tl.arange(0, R)
    found = tl.min(tl.where(joins & (ranks > last), ranks, R), 0)
    return found, 2 * tl.load(merged + image * r + found) + 2


@triton.jit(do_not_specialize=('length', 'side', 'r'))
def _means(
    tokens, size, kept, merged, target, means, weight, length, width, side, r,
    SIZED: tl.constexpr, D: tl.constexpr, R: tl.constexpr,
):  # fmt: skip
    """One group: the mean of its members, the most similar pair first."""
    row = tl.program_id(0).to(tl.int64)
    left = length - r
    image, number = row // left, row % left
    first, joins = _group(kept, target, image, number, side, r, R)
    channel = tl.program_id(1) * D + tl.arange(0, D)
    here = channel < width
    tokens += image * length * width + channel
    size += image * length
    total = tl.load(tokens + first * width, mask=here, other=0.0).to(tl.float32)
    count = tl.full([], 1.0, tl.float32)
    if SIZED:
        count = tl.load(size + first).to(tl.float32)
        total *= count
    last = tl.full([], -1, tl.int32)
    for _ in range(tl.sum(joins.to(tl.int32), 0)):
        last, place = _next(joins, last, merged, image, r, R)
        more = tl.load(tokens + place * width, mask=here, other=0.0).to(tl.float32)
        if SIZED:
            own = tl.load(size + place).to(tl.float32)
            total += more * own
            count += own
        else:
            total += more
            count += 1.0
    mean = (total / count).to(means.dtype.element_ty)
    tl.store(means + row * width + channel, mean, mask=here)
    if tl.program_id(1) == 0:
        tl.store(weight + row, count)


@triton.jit(do_not_specialize=('length', 'side', 'r'))
def _gradient(
    grad, size, weight, kept, merged, target, out, length, width, side, r,
    SIZED: tl.constexpr, D: tl.constexpr, R: tl.constexpr,
):  # fmt: skip
    """One group: what each of its members gets of the gradient of the mean."""
    row = tl.program_id(0).to(tl.int64)
    left = length - r
    image, number = row // left, row % left
    first, joins = _group(kept, target, image, number, side, r, R)
    channel = tl.program_id(1) * D + tl.arange(0, D)
    here = channel < width
    out += image * length * width + channel
    size += image * length
    share = tl.load(grad + row * width + channel, mask=here, other=0.0)
    share = share.to(tl.float32) / tl.load(weight + row)
    own = tl.full([], 1.0, tl.float32)
    if SIZED:
        own = tl.load(size + first).to(tl.float32)
    dtype = out.dtype.element_ty
    tl.store(out + first * width, (share * own).to(dtype), mask=here)
    last = tl.full([], -1, tl.int32)
    for _ in range(tl.sum(joins.to(tl.int32), 0)):
        last, place = _next(joins, last, merged, image, r, R)
        if SIZED:
            own = tl.load(size + place).to(tl.float32)
        tl.store(out + place * width, (share * own).to(dtype), mask=here)


def pairs(best: Tensor, partner: Tensor, r: int) -> tuple[Tensor, Tensor, Tensor]:
    """See :func:`.merging_operators.pairs_by_sorting`."""
    batch, side = partner.shape
    kept, merged = partner.new_empty(batch, side - r), partner.new_empty(batch, r)
    target = torch.empty_like(merged)
    with torch.cuda.device_of(best):
        _pairs[(batch,)](
            best.contiguous(), partner.contiguous(), kept, merged, target, side, r,
            SIDE=triton.next_power_of_2(max(side, 1)),
        )  # fmt: skip
    return kept, merged, target


def means(
    tokens: Tensor, size: Tensor | None, kept: Tensor, merged: Tensor, target: Tensor
) -> tuple[Tensor, Tensor]:
    """See :func:`.merging_operators.means_by_sums`."""
    batch, length, width = tokens.shape
    r = merged.shape[1]
    out = tokens.new_empty(batch, length - r, width)
    weight = tokens.new_empty(batch, length - r, dtype=torch.float32)
    _launch(_means, (tokens, size, kept, merged, target), (out, weight), length, width)
    return out, weight


def gradient(
    grad: Tensor,
    size: Tensor | None,
    weight: Tensor,
    kept: Tensor,
    merged: Tensor,
    target: Tensor,
) -> Tensor:
    """See :func:`.merging_operators.gradient_by_places`."""
    batch, left, width = grad.shape
    length = left + merged.shape[1]
    out = grad.new_empty(batch, length, width)
    given = (grad, size, weight, kept, merged, target)
    _launch(_gradient, given, (out,), length, width)
    return out


def _launch(
    kernel: triton.JITFunction,
    given: tuple[Tensor | None, ...],
    out: tuple[Tensor, ...],
    length: int,
    width: int,
) -> None:
    """Run a program for each group, and for each so many channels of it."""
    merged = given[-2]
    assert merged is not None  # of what is given the sizes alone may be missing
    batch, r = merged.shape
    sized = given[1] is not None
    # A kernel that is told of no sizes does not look at what stands for them.
    given = tuple(merged if each is None else each.contiguous() for each in given)
    channels = min(triton.next_power_of_2(width), WIDTH)
    grid = (batch * (length - r), triton.cdiv(width, channels))
    with torch.cuda.device_of(merged):
        kernel[grid](
            *given, *out, length, width, (length - 1) // 2, r,
            SIZED=sized, D=channels, R=triton.next_power_of_2(max(r, 1)),
        )  # fmt: skip
