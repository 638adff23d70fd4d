"""A generator whose codes come straight from the seeds, for the tests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from mmpretrain.structures import DataSample
from torch import Tensor, nn
from torch.utils.data import Dataset

from mergevq_mm.models.generators.sampling import uniform_noise
from mergevq_mm.models.generators.structures import CodeBatch, SampledCodes
from mergevq_mm.models.generators.token_generator import TokenGenerator
from mergevq_mm.models.utils.possible_maps import check_first_places
from mergevq_mm.registry import DATASETS, MODELS

GRID, LENGTH, CLASSES, VALUES = (4, 4), 16, 3, 64


@MODELS.register_module(force=True)
class FakeTokenizer(nn.Module):
    """Pixels are codes: a grey value for each patch of 2×2 pixels."""

    stride, learned_recovery, num_classes = 2, True, 0

    def __init__(
        self, grid: tuple[int, int] = GRID, split: tuple[int, ...] = (2, 4)
    ) -> None:
        super().__init__()
        self.grid, self.split = tuple(grid), tuple(split)
        self.length, self.bits = grid[0] * grid[1], sum(split)
        self.image_size = 2 * grid[0]
        self.last = 2**self.bits - 1

    def init_weights(self) -> None:
        """There are none."""

    def fingerprint(self) -> str:
        """As long as a real one."""
        return 'a' * 64

    def encode(self, images: Tensor, keep: int) -> tuple:
        grey = images.mean(dim=1)[:, ::2, ::2].flatten(1)  # B×L
        index = ((grey + 1) / 2 * self.last).round().long()[:, :keep]
        group = torch.arange(self.length).clamp(max=keep - 1)
        return index, group.expand(len(images), -1), self.grid

    def decode(
        self,
        index: Tensor,
        grid: tuple[int, int],
        complete: bool,
        first: Tensor | None = None,
    ) -> Tensor:
        if first is not None:
            check_first_places(first, index.shape, self.length)
        if not complete:  # repeat the codes until the grid is full
            index = index.repeat(1, -(-self.length // index.shape[1]))
        grey = index[:, : self.length].float() / self.last * 2 - 1
        image = grey.unflatten(1, grid).repeat_interleave(2, 1).repeat_interleave(2, 2)
        # Red is the grey value, green its negative, blue black.
        return torch.stack([image, -image, torch.full_like(image, -1.0)], dim=1)


@MODELS.register_module(force=True)
class FakeGenerator(TokenGenerator):
    """Learns one number; draws codes from the seeds, shifted by the class."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.scale = nn.Linear(1, 1, bias=False)
        self.dropout = nn.Dropout(0.5)
        self.seen: list[CodeBatch] = []

    def loss_codes(self, batch: CodeBatch) -> dict[str, Tensor]:
        self.seen.append(batch)
        value = batch.index.float().mean() / VALUES
        return {'loss_code': self.scale(value.reshape(1, 1)).square().mean()}

    def sample_codes(
        self,
        labels: Tensor,
        keep: int,
        seeds: Sequence[int],
        shift: int = 0,
        complete: bool = True,
    ) -> SampledCodes:
        assert not self.training
        number = LENGTH if complete else keep
        noise = uniform_noise(seeds, (number,), labels.device)
        index = (noise * (VALUES - 8)).long() + labels[:, None] + shift
        stats = {'distinct': torch.full_like(labels, keep)}
        return SampledCodes(self.dropout(index.float()).long(), keep, complete, stats)


def build(**overrides: Any) -> FakeGenerator:
    """The generator, in training mode."""
    cfg = dict(
        type='mergevq_mm.FakeGenerator',
        tokenizer=dict(type='mergevq_mm.FakeTokenizer'),
        num_classes=CLASSES,
        keep=dict(target=9, candidates=[4, 9, 16], family='uniform'),
    )
    return MODELS.build({**cfg, **overrides})


@DATASETS.register_module(force=True)
class FakeCodes(Dataset):
    """Codes of four images at several K, as ``MergeVQCodes`` gives them."""

    def __init__(
        self, keeps: Sequence[int], length: int, bits: int, fingerprint: str = 'a' * 64
    ) -> None:
        self.keeps, self.length, self.values = list(keeps), length, 2**bits
        self.metainfo = dict(fingerprint=fingerprint)

    def __len__(self) -> int:
        return 4

    def __getitem__(self, i: int) -> dict:
        rng = torch.Generator().manual_seed(i)
        inputs = {}
        for keep in self.keeps:
            codes = torch.randint(self.values, (keep,), generator=rng)
            inputs[f'index_K{keep}'] = codes
            # Each group begins once, in order; the other places repeat them.
            inputs[f'group_K{keep}'] = torch.arange(self.length) % keep
        return dict(inputs=inputs, data_samples=DataSample().set_gt_label(i % 2))
