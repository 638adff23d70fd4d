"""Look-up-free quantizer (paper section 3.3)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce
from torch.nn import functional as F

from mergevq_mm.base.module import BaseModule
from mergevq_mm.base.process import get_world_size
from mergevq_mm.registry import MODELS

from ..utils.convolution import group_norm
from ..utils.precision import no_autocast
from ..utils.structures import QuantizedTokens
from .lfq_functional import (
    codes_to_index,
    entropy,
    index_to_codes,
    join_index,
    mean_code_distribution,
    quantize,
    sample_entropy,
    split_index,
)


class CodeProjection(nn.Module):
    """GroupNorm, SiLU and a linear map from the tokens' width to the codes'.

    The norm runs over the token sequence, so that K need not be a square. It equals the
    norm over the √K×√K map that the authors fold the tokens into.

    Args:
        in_channels (int): Width of the tokens, D.
        bits (int): Width of the codes, d.
        norm_groups (int): Groups of the norm. Defaults to 32.
    """

    def __init__(self, in_channels: int, bits: int, norm_groups: int = 32) -> None:
        super().__init__()
        self.norm = group_norm(in_channels, norm_groups)
        self.linear = nn.Linear(in_channels, bits)

    def forward(self, tokens: Tensor) -> Tensor:
        """B×K×D to B×K×d."""
        normed = self.norm(tokens.transpose(1, 2)).transpose(1, 2)
        out: Tensor = self.linear(F.silu(normed))
        return out


@MODELS.register_module()
class LFQ(BaseModule):
    """Look-up-free quantizer: the code of a token is the sign of its d components.

    Differences: the authors materialise tokens × 2^d probabilities and add 1e-5 inside
    the logarithm, which biases the batch entropy at 18 bits; here both entropies are
    exact and factorised, and the mean distribution is that of all ranks.

    Args:
        bits (int): Width of a code, d; the codebook has 2^d codes. Defaults to 18.
        in_channels (int, optional): Width of the incoming tokens; they are normalised
            and projected to d. Defaults to None: they are d wide, no projection.
        split (Sequence[int]): Bits of the factorised index that a generator predicts.
            Defaults to (6, 12).
        temperature (float): τ of the code distributions. Defaults to 0.01.
        entropy_weight (float): Of H(token) - H(batch). Defaults to 0.1.
        batch_entropy_weight (float): Of the batch's entropy within it; a negative one
            asks for few codes that a generator can predict. Defaults to 1.
        commitment_weight (float): Of the mean (z - code)². Defaults to 0.25.
        eps (float, optional): Added inside the logarithm, for parity with the authors'
            numbers (1e-5). Defaults to None.
        sync (bool): Whether the mean code distribution is taken over all ranks.
            Defaults to True.
        norm_groups (int): Groups of the projection's norm. Defaults to 32.
        init_cfg (dict, optional): Initialization. Defaults to None.

    Raises:
        ValueError: If ``bits`` or ``temperature`` is out of range or ``split`` does not
            sum to ``bits``.
    """

    def __init__(
        self,
        bits: int = 18,
        in_channels: int | None = None,
        split: Sequence[int] = (6, 12),
        temperature: float = 0.01,
        entropy_weight: float = 0.1,
        batch_entropy_weight: float = 1.0,
        commitment_weight: float = 0.25,
        eps: float | None = None,
        sync: bool = True,
        norm_groups: int = 32,
        init_cfg: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(init_cfg)
        if not 1 <= bits <= 24:
            raise ValueError(
                f'bits={bits} lies outside [1, 24]; the mean distribution over 2^bits '
                "codes must fit in memory, 18 is the paper's choice."
            )
        if sum(split) != bits or min(split) < 1:
            raise ValueError(
                f'split={list(split)} does not split {bits} bits; give positive '
                f'numbers that sum to {bits}, such as {[bits // 3, bits - bits // 3]}.'
            )
        if not temperature > 0:
            raise ValueError(f'temperature={temperature} must be greater than 0.')
        self.bits = bits
        self.in_channels = bits if in_channels is None else in_channels
        self.split = tuple(split)
        self.temperature = temperature
        self.entropy_weight = entropy_weight
        self.batch_entropy_weight = batch_entropy_weight
        self.commitment_weight = commitment_weight
        self.eps = eps
        self.sync = sync
        self.projection: nn.Module = nn.Identity()
        if in_channels is not None:
            self.projection = CodeProjection(in_channels, bits, norm_groups)

    @property
    def codebook_size(self) -> int:
        """Number of codes, 2^d."""
        return 1 << self.bits

    def forward(
        self, tokens: Tensor, with_losses: bool | None = None
    ) -> QuantizedTokens:
        """Quantise tokens.

        Args:
            tokens (Tensor): B×K×D, or B×K×d without projection.
            with_losses (bool, optional): Whether to compute the losses. Defaults to
                None, in training mode.

        Returns:
            QuantizedTokens: Codes B×K×d in the precision of the weights, indices B×K
            and the losses, float32.

        Raises:
            ValueError: If the tokens are not as wide as announced.
        """
        z = self.projection(tokens)
        if z.shape[-1] != self.bits:
            raise ValueError(
                f'tokens of width {z.shape[-1]} do not fit bits={self.bits}; set '
                'in_channels to have them projected.'
            )
        # A half model goes on in its own precision; under autocast the weights are
        # float32, and so are the codes.
        dtype = next(self.projection.parameters(), tokens).dtype
        with no_autocast(z):
            z = z.float()
            codes = quantize(z)
            losses: dict[str, Tensor] = {}
            if self.training if with_losses is None else with_losses:
                losses = self.losses(z)
        return QuantizedTokens(codes.to(dtype), codes_to_index(codes), losses)

    def losses(self, z: Tensor) -> dict[str, Tensor]:
        """Entropy and commitment losses of tokens before quantisation.

        Args:
            z (Tensor): B×K×d, float32.

        Returns:
            dict[str, Tensor]: ``loss_entropy`` = weight · (H(token) - H(batch)),
            ``loss_commit``, and the two entropies in bits.
        """
        flat = z.flatten(0, -2)
        per_token = sample_entropy(flat, self.temperature)
        # Without weight it is told, and has no backward pass.
        seen = flat if self.batch_entropy_weight else flat.detach()
        mean = mean_code_distribution(seen, self.temperature)
        if self.sync and get_world_size() > 1:
            # Sums the gradients on the way back; data-parallel averaging undoes that.
            mean = all_reduce(mean) / get_world_size()
        batch = entropy(mean, self.eps)
        commit = F.mse_loss(z, quantize(z).detach())
        gap = per_token - self.batch_entropy_weight * batch
        to_bits = 1 / math.log(2)
        return {
            'loss_entropy': self.entropy_weight * gap,
            'loss_commit': self.commitment_weight * commit,
            'token_entropy': per_token.detach() * to_bits,
            'batch_entropy': batch.detach() * to_bits,
        }

    def index_to_codes(self, index: Tensor) -> Tensor:
        """Codes of indices: … int64 to …×d in {-1, 1}.

        Raises:
            ValueError: If an index is not that of a code.
        """
        looked_at = not torch.compiler.is_compiling() and not index.is_meta
        if looked_at and index.numel():
            low, high = torch.stack(index.aminmax()).tolist()  # one question
            if index.is_floating_point() or low < 0 or high >= self.codebook_size:
                raise ValueError(
                    f'indices in [{low}, {high}] of {index.dtype} are not those of '
                    f'{self.codebook_size} codes; give whole numbers from 0 to '
                    f'{self.codebook_size - 1}.'
                )
        return index_to_codes(index, self.bits)

    def codes_to_index(self, codes: Tensor) -> Tensor:
        """Indices of codes: …×d to … int64."""
        return codes_to_index(codes)

    def split_index(self, index: Tensor) -> tuple[Tensor, ...]:
        """Factorised indices; with (6, 12), index = pre + 64 post."""
        return split_index(index, self.split)

    def join_index(self, parts: Sequence[Tensor]) -> Tensor:
        """Joint indices of factorised ones."""
        return join_index(parts, self.split)
