"""A model of a few numbers with two sides, to test hooks in a real runner."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from mmengine.model import BaseModel
from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.runner import Runner
from mmpretrain.structures import DataSample
from torch import Tensor, nn
from torch.utils.data import Dataset

from mergevq_mm.engine.hooks import RunStateHook
from mergevq_mm.models.utils.finite import all_finite, copy_buffers, restore_buffers


class Numbers(Dataset):
    """Item i is a vector of three numbers; those in ``bad`` are NaN."""

    def __init__(self, size: int = 8, bad: tuple[int, ...] = ()) -> None:
        rng = torch.Generator().manual_seed(1)
        self.values = torch.randn(size, 3, generator=rng)
        self.values[list(bad)] = float('nan')

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, index: int) -> dict:
        sample = DataSample()
        sample.set_field(f'images/{index}.png', 'img_path', field_type='metainfo')
        return dict(inputs=self.values[index], data_samples=sample)


class TinyGAN(BaseModel):
    """Backbone with a batch norm, decoder, discriminator; no quantizer."""

    GENERATOR_PARTS = ('backbone', 'quantizer', 'neck', 'decoder', 'head')

    def __init__(self, frozen_size: int = 4) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.backbone = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
        self.quantizer = None
        self.decoder = nn.Linear(4, 3)
        self.head = nn.Identity()
        self.head.frozen = [nn.Linear(frozen_size, frozen_size)]
        self.discriminator = nn.Linear(3, 1)

    def forward(self, inputs: Tensor, data_samples: Any = None, mode: str = 'tensor'):
        return self.decoder(self.backbone(inputs))

    def train_step(self, data: dict, optim_wrapper: OptimWrapperDict) -> dict:
        image = data['inputs']
        before = copy_buffers(self)
        recon = self(image)
        losses = dict(loss_pixel=(recon - image).square().mean())
        if not all_finite(losses):
            restore_buffers(self, before)
            return dict(nonfinite=torch.tensor(1.0))
        total, log = self.parse_losses(losses)
        optim_wrapper['generator'].update_params(total)
        fake = self.discriminator(recon.detach())
        optim_wrapper['discriminator'].update_params(fake.mean() ** 2)
        return {**log, 'nonfinite': torch.tensor(0.0)}

    def val_step(self, data: dict) -> list:
        self.seen_in_val = [p.detach().clone() for p in self.parameters()]
        return [DataSample()]


def optimizers(model: nn.Module, accumulate: int = 1) -> OptimWrapperDict:
    generator = [*model.backbone.parameters(), *model.decoder.parameters()]
    return OptimWrapperDict(
        generator=OptimWrapper(
            torch.optim.Adam(generator, lr=0.1), accumulative_counts=accumulate
        ),
        discriminator=OptimWrapper(
            torch.optim.SGD(model.discriminator.parameters(), lr=0.1)
        ),
    )


def make_runner(
    work_dir: Path,
    hooks: list,
    model: nn.Module | None = None,
    epochs: int = 2,
    accumulate: int = 1,
    bad: tuple[int, ...] = (),
    wrappers: OptimWrapperDict | None = None,
    **kwargs: Any,
) -> Runner:
    """A runner over eight items in batches of two, in their order."""
    model = TinyGAN() if model is None else model
    loader = dict(
        batch_size=2,
        num_workers=0,
        sampler=dict(type='DefaultSampler', shuffle=False),
        collate_fn=dict(type='default_collate'),
        dataset=Numbers(bad=bad),
    )
    return Runner(
        model=model,
        work_dir=str(work_dir),
        train_dataloader=loader,
        train_cfg=dict(by_epoch=True, max_epochs=epochs, val_interval=epochs),
        optim_wrapper=wrappers or optimizers(model, accumulate),
        custom_hooks=[*hooks, RunStateHook()],
        default_hooks=dict(logger=dict(type='LoggerHook', interval=100)),
        experiment_name=f'{work_dir.name}_{id(model)}',
        randomness=dict(seed=0),
        **kwargs,
    )
