"""Look-up-free quantisation as pure functions (paper section 3.3).

The codebook {-1, 1}^d has 2^d codes and no table. Given a token, its bits are
independent: softmax over all codes of 2 z·c / τ is the product over the bits of
σ(4 z_j / τ). Both entropies follow exactly without the 2^d axis:

* of one token, the sum of its d binary entropies;
* of the batch mean, from two half-codebooks. With A, B ∈ R^{n×2^{d/2}} the
  distributions of the tokens over the lower and the upper half of the bits, the mean
  distribution over all codes is (1/n) AᵀB, one product of two small matrices.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

# Below this a half-codebook's probability is 0 for every purpose, while the product
# of two of them is still a normal float32: denormal numbers slow CPUs several times.
_LOG_TINY = -40.0


def quantize(z: Tensor) -> Tensor:
    """Sign of each component, -1 at 0, with straight-through gradient."""
    codes = torch.where(z > 0, 1.0, -1.0).to(z.dtype)
    return codes + (z - z.detach())  # exactly the codes, however large z is


def codes_to_index(codes: Tensor) -> Tensor:
    """Index of each code: …×d to … int64, bit j counting 2^j."""
    place = 2 ** torch.arange(codes.shape[-1], device=codes.device)
    return ((codes > 0) * place).sum(dim=-1)


def index_to_codes(index: Tensor, bits: int) -> Tensor:
    """Code of each index: … to …×d in {-1, 1}."""
    shift = torch.arange(bits, device=index.device)
    # Not `>>`, which is an operator of its own that ONNX's exporter does not know.
    bits_of = torch.bitwise_right_shift(index.unsqueeze(-1), shift) & 1
    return bits_of * 2.0 - 1.0


def split_index(index: Tensor, split: Sequence[int]) -> tuple[Tensor, ...]:
    """Factorise indices: with [6, 12], index = pre + 2^6 post."""
    parts, shift = [], 0
    for bits in split:
        part = index >> shift if shift else index
        parts.append(part & (2**bits - 1))
        shift += bits
    return tuple(parts)


def join_index(parts: Sequence[Tensor], split: Sequence[int]) -> Tensor:
    """Undo :func:`split_index`."""
    index, shift = torch.zeros_like(parts[0]), 0
    for part, bits in zip(parts, split, strict=True):
        index = index + (part << shift)
        shift += bits
    return index


def sample_entropy(z: Tensor, temperature: float) -> Tensor:
    """Mean entropy of a token's distribution over all codes, in nats.

    Args:
        z (Tensor): Tokens before quantisation, n×d.
        temperature (float): τ.

    Returns:
        Tensor: Scalar, exactly mean_n H(softmax(2 z_n·c / τ)).
    """
    size = (4 * z / temperature).abs()
    # H(σ(u)) = softplus(-|u|) + |u| σ(-|u|): no logarithm of 0, no cancellation.
    return (F.softplus(-size) + size * (-size).sigmoid()).sum(dim=-1).mean()


def mean_code_distribution(z: Tensor, temperature: float) -> Tensor:
    """Mean over the tokens of their distributions over all codes.

    Args:
        z (Tensor): Tokens before quantisation, n×d.
        temperature (float): τ.

    Returns:
        Tensor: 2^⌊d/2⌋×2^⌈d/2⌉; row a, column b is the code of index a + 2^⌊d/2⌋ b.
    """
    low = z.shape[-1] // 2
    a = _half_distribution(z[:, :low], temperature)
    b = _half_distribution(z[:, low:], temperature)
    return a.T @ b / z.shape[0]


def _half_distribution(z: Tensor, temperature: float) -> Tensor:
    """Distribution of n×h tokens over the 2^h codes of their bits, n×2^h."""
    logit = 4 * z / temperature
    zero, one = F.logsigmoid(-logit), F.logsigmoid(logit)
    log_p = zero.new_zeros(z.shape[0], 1)
    for bit in range(z.shape[-1]):  # twice as many codes: this bit is 0, then 1
        pair = [log_p + zero[:, bit : bit + 1], log_p + one[:, bit : bit + 1]]
        log_p = torch.cat(pair, dim=1)
    return log_p.clamp_min(_LOG_TINY).exp()


def entropy(p: Tensor, eps: float | None = None) -> Tensor:
    """Entropy in nats of a distribution given as a tensor of any shape.

    Args:
        p (Tensor): Probabilities that sum to 1.
        eps (float, optional): What the authors add inside the logarithm (1e-5), for
            parity; it is more than a uniform code's probability at 18 bits. Defaults to
            None: log of max(p, tiny), exact and with a finite gradient at 0.
    """
    if eps is not None:
        return -(p * (p + eps).log()).sum()
    return -(p * p.clamp_min(torch.finfo(p.dtype).tiny).log()).sum()
