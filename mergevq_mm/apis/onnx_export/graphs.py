"""The tokenizer's two graphs: image to codes and source map, and back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...models.quantizers.lfq_functional import index_to_codes
from ...models.utils.group_map import recover_tokens

Inputs = dict[str, Tensor]
SOME = 7  # tokens of a decoder's example; a number that nothing else has


@dataclass
class Graph:
    """What becomes a file.

    Attributes:
        name (str): Of the file, without its ending.
        module (nn.Module): In evaluation mode.
        example (Callable): Inputs by name for a batch of so many samples.
        outputs (tuple[str, ...]): Names of the outputs.
        free (Mapping): Of each input, the axes of any length and their names.
        facts (Mapping): What the file says of itself.
        codes (Callable): From the outputs to the codes that are to be compared; None
            where there are none. Defaults to None.
        merges (bool): Whether what comes of a sample may hang on rounding; samples are
            the first axis of all outputs. Defaults to False.
    """

    name: str
    module: nn.Module
    example: Callable[[int], Inputs]
    outputs: tuple[str, ...]
    free: Mapping[str, Mapping[int, str]]
    facts: Mapping[str, Any] = field(default_factory=dict)
    codes: Callable[[Sequence[Tensor]], Tensor] | None = None
    merges: bool = False


class EncoderGraph(nn.Module):
    """Images to the codes of K tokens and their source map.

    Args:
        parts (nn.Module): With ``backbone`` and ``quantizer``.
        keep (int): K, fixed: the shapes of all merges depend on it.
    """

    def __init__(self, parts: Any, keep: int) -> None:
        super().__init__()
        self.backbone, self.quantizer = parts.backbone, parts.quantizer
        self.keep = keep

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """B×3×H×W in [-1, 1] to codes B×K, map B×L and class token B×D."""
        merged = self.backbone.encode(image, self.keep)
        return self.quantizer(merged.tokens).index, merged.group, merged.cls


class DecoderGraph(nn.Module):
    """Codes of any K and their source map to images.

    Args:
        parts (nn.Module): With ``quantizer`` and ``decoder``.
        grid (tuple[int, int]): Rows and columns.
    """

    def __init__(self, parts: Any, grid: tuple[int, int]) -> None:
        super().__init__()
        self.decoder, self.bits = parts.decoder, parts.quantizer.bits
        self.grid = grid

    def forward(self, index: Tensor, group: Tensor) -> Tensor:
        """Codes B×K and map B×L to images B×3×H×W, about in [-1, 1]."""
        codes = recover_tokens(index_to_codes(index, self.bits), group)  # B×L×d
        image: Tensor = self.decoder(codes, self.grid)
        return image


def made_images(number: int, size: tuple[int, int]) -> Tensor:
    """Images of soft shapes and some grain, the same in each run.

    Args:
        number (int): How many, which also is their seed.
        size (tuple[int, int]): Rows and columns.

    Returns:
        Tensor: number×3×H×W in [-1, 1].
    """
    rng = torch.Generator().manual_seed(number)
    image = torch.randn(number, 3, *size, generator=rng) / 8
    for cells in (2, 5, 13):
        coarse = torch.randn(number, 3, cells, cells, generator=rng)
        image = image + F.interpolate(coarse, size, mode='bicubic')
    return image.tanh()


def encoder_graph(
    parts: Any, keep: int, size: tuple[int, int], facts: Mapping[str, Any]
) -> Graph:
    """The encoder at one K.

    Args:
        parts (nn.Module): With ``backbone`` and ``quantizer``.
        keep (int): K.
        size (tuple[int, int]): Pixels, rows and columns.
        facts (Mapping): Of all graphs of the tokenizer.

    Returns:
        Graph: 'encoder_k<K>', or 'encoder_all' where nothing merges.

    Raises:
        ValueError: If the stride does not divide the size, or K cannot be reached.
    """
    grid = parts.backbone.grid_of(*size)
    parts.backbone.plan(grid, keep)  # refuses a K before the work
    whole = keep == grid[0] * grid[1]

    def on_raster(made: Sequence[Tensor]) -> Tensor:
        """The code of each position: in whatever order the tokens stand."""
        return made[0].gather(1, made[1])

    return Graph(
        f'encoder_{"all" if whole else f"k{keep}"}',
        EncoderGraph(parts, keep),
        lambda batch: {'image': made_images(batch, size)},
        ('index', 'group', 'cls'),
        {'image': {0: 'batch'}},
        {**facts, 'graph': 'encoder', 'keep': keep},
        on_raster,
        merges=not whole,
    )


def decoder_graph(parts: Any, grid: tuple[int, int], facts: Mapping[str, Any]) -> Graph:
    """The decoder, for any K.

    Args:
        parts (nn.Module): With ``quantizer`` and ``decoder``.
        grid (tuple[int, int]): Rows and columns.
        facts (Mapping): Of all graphs of the tokenizer.

    Returns:
        Graph: 'decoder'.
    """
    length, values = grid[0] * grid[1], 2**parts.quantizer.bits

    def example(batch: int) -> Inputs:
        rng = torch.Generator().manual_seed(batch)
        keep = min(SOME + 2 * batch, length)
        return {
            'index': torch.randint(values, (batch, keep), generator=rng),
            'group': torch.randint(keep, (batch, length), generator=rng),
        }

    return Graph(
        'decoder',
        DecoderGraph(parts, grid),
        example,
        ('image',),
        {'index': {0: 'batch', 1: 'keep'}, 'group': {0: 'batch'}},
        {**facts, 'graph': 'decoder'},
    )
