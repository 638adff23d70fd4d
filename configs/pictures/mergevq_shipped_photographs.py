# The tokenizer `photos` that comes with the package: the networks of
# mergevq_photographs.py, with a perceptual loss, on crops of all photographs that the
# packages ship.
#
# Data      data/shipped_photographs, by
#           tools/dataset_converters/shipped_photographs.py; the cat is held out
# Hardware  one CPU core
# Run by us yes, in 39 minutes; what came out stands in docs/pictures.md
_base_ = ['mergevq_photographs.py']

data_root = 'data/shipped_photographs/'
crop = dict(type='mmpretrain.RandomCrop', crop_size=64)
views = dict(type='mmpretrain.MultiView', num_views=[1], transforms=[[crop]])
# There is no position embedding: 256 positions of a crop teach what the 2,304 of a
# picture of 192 px need.
size = 192

model = dict(
    backbone=dict(img_size=size),
    head=dict(
        perceptual=dict(
            _delete_=True,
            type='mergevq_mm.PerceptualLoss',
            network=dict(**_base_.efficientnet_maps, out_indices=(0, 1, 2)),
            loss_weight=0.1,
        ),
    ),
    keep=dict(target=144, candidates=[64, 144, 256], weights=[0.3, 0.3, 0.4]),
    test_cfg=dict(keep=[0.25, 0.5625, 1.0]),
)
train_dataloader = dict(
    batch_size=4,
    sampler=dict(_delete_=True, type='InfiniteSampler', shuffle=True),
    dataset=dict(
        _delete_=True,
        type='mergevq_mm.ImageFolder',
        data_root=data_root,
        data_prefix='train',
        with_label=False,
        pipeline=[_base_.load, views, _base_.pack],
    ),
)
val_dataloader = dict(
    _delete_=True,
    batch_size=1,
    num_workers=0,
    persistent_workers=False,
    sampler=dict(type='DefaultSampler', shuffle=False),
    collate_fn=dict(type='default_collate'),
    dataset=dict(
        type='mergevq_mm.ImageFolder',
        data_root=data_root,
        data_prefix='val',
        with_label=False,
        pipeline=[
            _base_.load,
            dict(
                type='mmpretrain.ResizeEdge',
                scale=size,
                backend='pillow',
                interpolation='lanczos',
            ),
            dict(type='mmpretrain.CenterCrop', crop_size=size),
            _base_.pack,
        ],
    ),
)
val_evaluator = [dict(type='mergevq_mm.ReconstructionMetric')]
val_cfg = dict(_delete_=True)
custom_hooks = _base_.custom_hooks + [
    dict(type='mergevq_mm.ReconstructionVisualizationHook', num_images=1)
]

steps, warm_up = 7000, 100
auto_scale_lr = dict(base_batch_size=4)
train_cfg = dict(_delete_=True, by_epoch=False, max_iters=steps, val_interval=1000)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.02, by_epoch=False, end=warm_up),
    dict(
        type='CosineAnnealingLR',
        by_epoch=False,
        begin=warm_up,
        end=steps,
        eta_min_ratio=0.01,
    ),
]
default_hooks = dict(checkpoint=dict(by_epoch=False, interval=250, max_keep_ckpts=2))
