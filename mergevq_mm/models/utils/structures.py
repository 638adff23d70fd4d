"""What one part of MergeVQ hands to the next.

Everything that a later step needs stands in the value that the earlier step
returned; nothing is read back from a module's attributes after a call.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class EmbeddedImage(NamedTuple):
    """What the encoder's stem hands to its blocks.

    Attributes:
        tokens (Tensor): The class token and one for each raster position, B×(1+L)×D.
        grid (tuple[int, int]): Rows and columns of the raster, rows * columns = L.
    """

    tokens: Tensor
    grid: tuple[int, int]


class MergedTokens(NamedTuple):
    """What the encoder hands to the quantizer.

    Attributes:
        cls (Tensor): The class token, B×D.
        tokens (Tensor): The K tokens that merging left, B×K×D, ordered by the first
            raster position that each one stands for.
        group (Tensor): For each of the L raster positions the index of the token
            that stands for it, B×L int64: the source matrix S in L integers.
        size (Tensor): How many raster positions each token stands for, B×K.
        grid (tuple[int, int]): Rows and columns of the raster, rows * columns = L.
    """

    cls: Tensor
    tokens: Tensor
    group: Tensor
    size: Tensor
    grid: tuple[int, int]


class QuantizedTokens(NamedTuple):
    """What the quantizer hands to the recovery.

    Attributes:
        codes (Tensor): Codes in {-1, 1}, B×K×d, with straight-through gradient.
        index (Tensor): Index of each code, B×K int64, bit 0 least significant.
        losses (dict[str, Tensor]): ``loss_entropy`` and ``loss_commit``, weighted, and
            diagnostics; empty where no losses were asked for.
    """

    codes: Tensor
    index: Tensor  # type: ignore[assignment]  # no tuple.index is missed
    losses: dict[str, Tensor]


class RecoveredTokens(NamedTuple):
    """What the recovery hands to the decoder.

    Attributes:
        tokens (Tensor): One code for each raster position, B×L×d.
        logits (Tensor, optional): Score of each of the K tokens for each raster
            position, B×L×K float32; None where the recovery is not learned.
    """

    tokens: Tensor
    logits: Tensor | None
