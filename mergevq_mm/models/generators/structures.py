"""What stage 2 learns from, and what it draws."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class CodeBatch(NamedTuple):
    """Tokenized images.

    Attributes:
        index (Tensor): Codes of the K groups, B×K int64, ordered by the first raster
            position of each group.
        group (Tensor): Group of each raster position, B×L int64.
        labels (Tensor): Class of each image, B int64.
        grid (tuple[int, int]): Rows and columns of the raster, rows * columns = L.
    """

    index: Tensor  # type: ignore[assignment]  # no tuple.index is missed
    group: Tensor
    labels: Tensor
    grid: tuple[int, int]


class SampledCodes(NamedTuple):
    """Drawn codes.

    Attributes:
        index (Tensor): B×L int64 in raster order where ``complete``; else the codes of
            K groups, B×K int64, whose places the source recovery has to find.
        keep (int): The K that was asked for.
        complete (bool): Whether each raster position has its code.
        stats (dict[str, Tensor]): Diagnostics, one value a sample.
        first (Tensor, optional): The raster place where each group begins, B×K int64,
            where it was drawn, too. Defaults to None.
    """

    index: Tensor  # type: ignore[assignment]  # no tuple.index is missed
    keep: int
    complete: bool
    stats: dict[str, Tensor]
    first: Tensor | None = None
