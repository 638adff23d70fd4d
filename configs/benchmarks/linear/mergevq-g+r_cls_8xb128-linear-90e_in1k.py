# Linear probe of MergeVQ (G+R): class token, merging off, ImageNet-1K at 256 px.
#
# The paper's protocol: parameter-free batch norm and a linear layer, 90 epochs, AdamW,
# batch 1024, 1e-3 with a cosine; the rest is mmpretrain's probe of MAE.
#
# Weights   model.backbone.init_cfg.checkpoint, a checkpoint of configs/mergevq_g+r.py
# Hardware  8 GPUs x 128 images; hours: not known to us
# Expected  paper: 77.9 % (which feature was probed is not said)
# Run by us no (needs ImageNet and GPUs); the tests run it shrunk
_base_ = ['mmpretrain::mae/benchmarks/vit-base-p16_8xb2048-linear-coslr-90e_in1k.py']

custom_imports = dict(imports=['mergevq_mm'], allow_failed_imports=False)

# The tokenizer takes images in [-1, 1], and 256 px are what it was trained with.
data_preprocessor = dict(mean=[127.5] * 3, std=[127.5] * 3, to_rgb=True)
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(
        type='RandomResizedCrop',
        scale=256,
        backend='pillow',
        interpolation='bicubic',
    ),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(type='PackInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(
        type='ResizeEdge',
        scale=292,
        edge='short',
        backend='pillow',
        interpolation='bicubic',
    ),
    dict(type='CenterCrop', crop_size=256),
    dict(type='PackInputs'),
]
train_dataloader = dict(batch_size=128, dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(batch_size=128, dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader

model = dict(
    backbone=dict(
        _delete_=True,
        type='mergevq_mm.MergeVQEncoder',
        arch='g+r-d64',
        img_size=256,
        out_type='cls_token',
        frozen_stages=12,
        init_cfg=dict(
            type='Pretrained',
            checkpoint='work_dirs/mergevq_g+r/epoch_270.pth',
            prefix='backbone.',
        ),
    ),
    neck=dict(input_features=512),
    head=dict(type='LinearClsHead', in_channels=512),
)

optim_wrapper = dict(
    _delete_=True,
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=1e-3, weight_decay=0.0),
)
default_hooks = dict(checkpoint=dict(type='mergevq_mm.SafeCheckpointHook'))
custom_hooks = [
    dict(type='mergevq_mm.RunStateHook'),
    dict(type='mergevq_mm.SpeedHook', graph=True),  # on a GPU; the encoder is frozen
]
auto_scale_lr = dict(base_batch_size=1024)
