"""A MergeVQ of a few thousand parameters, its data and its runs, for the tests."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmpretrain.structures import DataSample
from PIL import Image
from torch import Tensor, nn

from mergevq_mm.models import MergeVQ
from mergevq_mm.registry import MODELS

SIZE, LENGTH, LAYERS, DIMS, BITS = 8, 16, 2, 16, 6  # pixels, tokens, …
ENCODER = dict(
    stem='hybrid',
    base_channels=8,
    channel_mult=(1, 2),
    num_res_blocks=1,
    num_layers=LAYERS,
    num_heads=2,
)
TEACHER = dict(
    type='mergevq_mm.FrozenTeacher',
    random_init=True,
    network=dict(
        type='mergevq_mm.MergeVQEncoder',
        arch=dict(
            stem='patch', embed_dims=DIMS, patch_size=4, num_layers=1, num_heads=2
        ),
        img_size=SIZE,
    ),
)
PERCEPTUAL = dict(
    type='mergevq_mm.PerceptualLoss',
    random_init=True,
    network=dict(
        type='mergevq_mm.MergeVQEncoder',
        arch=ENCODER,
        img_size=SIZE,
        out_type='featmap',
        layer_scale=1.0,
    ),
)


@MODELS.register_module(force=True)
class NormedDiscriminator(nn.Sequential):
    """Two convolutions with a batch norm, whose statistics each pass changes."""

    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(3, 8, 3, 2),
            nn.BatchNorm2d(8),
            nn.LeakyReLU(0.2),
            nn.Conv2d(8, 1, 3, padding=1),
        )


def model_cfg(**overrides: Any) -> dict:
    """Config of the model with every loss on; ``overrides`` replace its arguments."""
    cfg = dict(
        type='mergevq_mm.MergeVQ',
        backbone=dict(
            type='mergevq_mm.MergeVQEncoder',
            arch=ENCODER,
            img_size=SIZE,
            layer_scale=1.0,
        ),
        quantizer=dict(
            type='mergevq_mm.LFQ',
            bits=BITS,
            split=(2, 4),
            in_channels=DIMS,
            temperature=1.0,
            entropy_weight=3.0,
        ),
        neck=dict(
            type='mergevq_mm.SourceRecovery',
            bits=BITS,
            grid=(4, 4),
            embed_dims=16,
            num_heads=2,
            feedforward_channels=32,
        ),
        decoder=dict(
            type='mergevq_mm.MergeVQDecoder',
            bits=BITS,
            base_channels=8,
            channel_mult=(1, 2),
            num_res_blocks=1,
            num_layers=1,
            num_heads=2,
            layer_scale=1.0,
        ),
        head=dict(
            type='mergevq_mm.MergeVQHead',
            pixel=dict(l1=1.0, l2=1.0),
            perceptual=PERCEPTUAL,
            source=dict(loss_weight=0.5),
            gan_weight=0.5,
            alignment=dict(in_channels=DIMS, out_channels=DIMS, layers=2),
        ),
        discriminator=dict(type='mergevq_mm.NormedDiscriminator'),
        target_generator=TEACHER,
        keep=dict(target=9, candidates=[6, 9, 12, 16], family='uniform'),
        test_cfg=dict(keep=[9, 16]),
        data_preprocessor=dict(
            type='mmpretrain.SelfSupDataPreprocessor',
            mean=[127.5] * 3,
            std=[127.5] * 3,
            to_rgb=True,
        ),
    )
    return {**copy.deepcopy(cfg), **overrides}


def build_model(**overrides: Any) -> MergeVQ:
    """The model in training mode."""
    return MODELS.build(model_cfg(**overrides)).train()


def batch(seed: int = 0, views: int = 3, number: int = 2, size: int = SIZE) -> dict:
    """A batch as the data loader gives it: grey values and labelled samples."""
    rng = torch.Generator().manual_seed(seed)
    shape = (number, 3, size, size)
    samples = [DataSample().set_gt_label(i % 2) for i in range(number)]
    images = [torch.randint(256, shape, generator=rng).float() for _ in range(views)]
    return dict(inputs=images, data_samples=samples)


def clone_state(module: nn.Module) -> dict[str, Tensor]:
    """A copy of a module's state."""
    return {name: value.clone() for name, value in module.state_dict().items()}


def optimizers(
    model: MergeVQ, kind: type = OptimWrapper, lr: float = 0.1, **kwargs: Any
) -> OptimWrapperDict:
    """SGD for each side."""
    sides = {'generator': [], 'discriminator': []}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            side = 'discriminator' if 'discriminator' in name else 'generator'
            sides[side].append(parameter)
    wrappers = {
        side: kind(optimizer=torch.optim.SGD(parameters, lr=lr), **kwargs)
        for side, parameters in sides.items()
        if parameters
    }
    return OptimWrapperDict(**wrappers)


def moved(before: dict[str, Tensor], module: nn.Module) -> set[str]:
    """Names of the parts of a model whose state has changed."""
    after = module.state_dict()
    changed = {k for k in before if not torch.equal(before[k], after[k])}
    return {name.split('.')[0] for name in changed}


# ------------------------------------------------------------------------- runs


def write_images(
    root: Path, per_class: int = 4, split: str = 'train', size: int = 10
) -> Path:
    """Noise images of two classes, ``root/split/{a,b}/<number>.png``."""
    rng = np.random.default_rng(0)
    for name in ('a', 'b'):
        folder = root / split / name
        folder.mkdir(parents=True)
        for i in range(per_class):
            pixels = rng.integers(0, 256, (size, size, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f'{i}.png')
    return root


def run_cfg(root: Path, work_dir: Path, **overrides: Any) -> Config:
    """A whole config: two optimizers, augmentation, EMA, guards, safe checkpoints.

    Args:
        root (Path): A folder of :func:`write_images`, with the splits train and val.
        work_dir (Path): Where the run writes.
        **overrides (Any): As for ``--cfg-options``, with ``__`` in the place of dots.
    """

    def loader(split: str, pipeline: list, shuffle: bool) -> dict:
        return dict(
            batch_size=2,
            num_workers=0,
            collate_fn=dict(type='default_collate'),
            sampler=dict(type='DefaultSampler', shuffle=shuffle),
            dataset=dict(
                type='mergevq_mm.ImageFolder',
                data_root=str(root),
                split=split,
                num_classes=2,
                test_mode=not shuffle,
                pipeline=pipeline,
            ),
        )

    load, pack = dict(type='mergevq_mm.LoadImage'), dict(type='mmpretrain.PackInputs')
    view = [
        dict(type='mmpretrain.RandomCrop', crop_size=SIZE),
        dict(type='mmpretrain.RandomFlip', prob=0.5),
    ]
    views = dict(type='mmpretrain.MultiView', num_views=[1, 2], transforms=[view] * 2)
    crop = dict(type='mmpretrain.CenterCrop', crop_size=SIZE)
    wrapper = dict(
        type='OptimWrapper',
        optimizer=dict(type='Adam', lr=1e-3, betas=(0.5, 0.9)),
        accumulative_counts=2,
    )
    sides = dict(
        generator=['backbone', 'quantizer', 'neck', 'decoder', 'head'],
        discriminator=['discriminator'],
    )
    model = model_cfg(
        discriminator=dict(
            type='mmagic.PatchDiscriminator',
            in_channels=3,
            base_channels=8,
            num_conv=1,
            norm_cfg=dict(type='BN'),
        ),
    )
    model['backbone']['drop_path_rate'] = 0.3
    cfg = Config(
        dict(
            default_scope='mmpretrain',
            custom_imports=dict(imports=['mergevq_mm'], allow_failed_imports=False),
            model=model,
            work_dir=str(work_dir),
            experiment_name=work_dir.name,
            train_dataloader=loader('train', [load, views, pack], True),
            val_dataloader=loader('val', [load, crop, pack], False),
            test_dataloader=loader('val', [load, crop, pack], False),
            val_evaluator=[dict(type='mergevq_mm.ReconstructionMetric')],
            test_evaluator=[dict(type='mergevq_mm.ReconstructionMetric')],
            train_cfg=dict(by_epoch=True, max_epochs=1, val_interval=1),
            val_cfg=dict(),
            test_cfg=dict(),
            optim_wrapper=dict(
                constructor='mmagic.MultiOptimWrapperConstructor',
                **{side: dict(wrapper, modules=parts) for side, parts in sides.items()},
            ),
            param_scheduler=[
                dict(type='MultiStepLR', by_epoch=True, milestones=[3], gamma=0.1)
            ],
            default_hooks=dict(
                logger=dict(type='LoggerHook', interval=1),
                checkpoint=dict(type='mergevq_mm.SafeCheckpointHook', interval=1),
            ),
            custom_hooks=[
                dict(type='mergevq_mm.RunStateHook'),
                dict(type='mergevq_mm.NaNGuardHook', max_skips=2),
                dict(type='mergevq_mm.GeneratorEMAHook', momentum=0.1),
            ],
            randomness=dict(seed=5),
            log_level='WARNING',
        )
    )
    cfg.merge_from_dict({k.replace('__', '.'): v for k, v in overrides.items()})
    return cfg
