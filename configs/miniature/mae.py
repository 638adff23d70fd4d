# Baseline: mmpretrain's MAE with an encoder of the same width, depth and patches as
# MergeVQ (R), the same images, batches, schedule and number of steps. Weight decay and
# betas are those of mmpretrain's own MAE config.
_base_ = ['mergevq_g+r.py']

model = dict(
    _delete_=True,
    type='mmpretrain.MAE',
    backbone=dict(
        type='mmpretrain.MAEViT',
        arch=dict(embed_dims=64, num_layers=6, num_heads=4, feedforward_channels=256),
        img_size=32,
        patch_size=4,
        mask_ratio=0.75,
    ),
    neck=dict(
        type='mmpretrain.MAEPretrainDecoder',
        num_patches=64,
        patch_size=4,
        in_chans=3,
        embed_dim=64,
        decoder_embed_dim=64,
        decoder_depth=2,
        decoder_num_heads=4,
        mlp_ratio=4,
    ),
    head=dict(
        type='mmpretrain.MAEPretrainHead',
        norm_pix=True,
        patch_size=4,
        loss=dict(type='mmpretrain.PixelReconstructionLoss', criterion='L2'),
    ),
    init_cfg=[
        dict(type='Xavier', layer='Linear', distribution='uniform'),
        dict(type='Constant', layer='LayerNorm', val=1.0, bias=0.0),
    ],
)
optim_wrapper = dict(
    _delete_=True,
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=2e-3, betas=(0.9, 0.95), weight_decay=0.05),
    paramwise_cfg=dict(
        custom_keys={
            'ln': dict(decay_mult=0.0),
            'bias': dict(decay_mult=0.0),
            'pos_embed': dict(decay_mult=0.0),
            'mask_token': dict(decay_mult=0.0),
            'cls_token': dict(decay_mult=0.0),
        }
    ),
)
model_wrapper_cfg = None
# MAE takes the image itself, not a list of views.
train_dataloader = dict(dataset=dict(pipeline=_base_.test_pipeline))
custom_hooks = [
    dict(type='mergevq_mm.RunStateHook'),
    # As the other models are averaged: mmengine's own hook, the same memory.
    dict(type='mmengine.EMAHook', momentum=0.02),
]
val_cfg = val_dataloader = val_evaluator = None
test_cfg = test_dataloader = test_evaluator = None
