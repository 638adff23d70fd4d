"""Generators of a few thousand parameters over any grid and vocabulary."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from mergevq_mm.models.generators import MergeAR, RandAR
from mergevq_mm.models.generators.code_generator import CodeGenerator
from mergevq_mm.models.generators.raster_decoding import RasterDecoding
from mergevq_mm.registry import MODELS

GRID, SPLIT, CLASSES = (6, 5), (3, 5), 10
LENGTH, VOCABULARY = 30, 256
DIMS, LAYERS = 32, 2
ARCH = dict(
    embed_dims=DIMS, num_layers=LAYERS, num_heads=4, ffn_multiple=32, head_layers=1
)


@MODELS.register_module(force=True)
class GridOfCodes(nn.Module):
    """What a generator asks of its tokenizer, without images."""

    def __init__(
        self,
        grid: tuple[int, int] = GRID,
        split: Sequence[int] = SPLIT,
        learned_recovery: bool = True,
    ) -> None:
        super().__init__()
        self.grid, self.split, self.bits = grid, tuple(split), sum(split)
        self.length, self.learned_recovery = grid[0] * grid[1], learned_recovery

    def init_weights(self) -> None:
        """There are none."""


def make(
    kind: type[CodeGenerator],
    keep: int = 4,
    candidates: Sequence[int] | None = None,
    tokenizer: dict | None = None,
    **cfg: Any,
) -> MergeAR | RandAR:
    """A generator for K and K + 3, the same each time, with lively random weights."""
    arguments = dict(
        tokenizer=dict(type='mergevq_mm.GridOfCodes', **(tokenizer or {})),
        arch=ARCH,
        num_classes=CLASSES,
        keep=dict(target=keep, candidates=candidates or [keep, keep + 3]),
        dropout=0.0,
    )
    model = kind(**{**arguments, **cfg}).eval()
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3, generator=generator)
    return model


def merged_codes(keep: int, number: int = 3, length: int = LENGTH) -> Tensor:
    """Codes of merged images: K values at most in each sample, B×L."""
    values = torch.randint(VOCABULARY, (number, keep))
    return values.gather(1, torch.randint(keep, (number, length)))


@torch.no_grad()
def cached_logits(
    model: MergeAR, index: Tensor, labels: Tensor, keep: int, cache: str, **options: Any
) -> tuple[list[Tensor], RasterDecoding]:
    """Logits of known codes, one token at a time through a cache; and the decoding."""
    seeds = range(len(labels))
    decoding = model.start_decoding(labels, keep, seeds, cache, **options)
    contexts = [decoding.start(model.embed_prefix(labels, keep))]
    for place in range(index.shape[1] - 1):
        token = torch.full_like(labels, place)[:, None]
        read = decoding.cache.reserve(model.prefix + place)
        contexts.append(decoding.advance(index[:, place, None], token, read))
    logits = model.head(torch.cat(contexts, dim=1), index, model.embedding)
    return logits, decoding


class NoWaiting(TorchDispatchMode):
    """Refuses what makes the host wait for a device, and copies from the host."""

    NAMES = (
        'aten::_local_scalar_dense',
        'aten::item',
        'aten::is_nonzero',
        'aten::equal',
        'aten::nonzero',
        'aten::masked_select',
        'aten::_unique2',
        'aten::repeat_interleave.Tensor',
    )

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        name = func.name()
        assert name not in self.NAMES, f'{name} makes the host wait'
        if name == 'aten::lift_fresh':  # of one number, a device makes it itself
            assert args[0].dim() == 0, 'numbers are copied from the host'
        if name.startswith('aten::index'):  # a boolean index is nonzero in disguise
            for index in args[1] if isinstance(args[1], (list, tuple)) else ():
                assert index is None or index.dtype != torch.bool
        return func(*args, **(kwargs or {}))
