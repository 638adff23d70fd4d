# What the detectors and segmenters share: backbones, optimizers and grey values. The
# configs copy from here (`_base_.mergevq_r`); alone, the names mean nothing to a run.
custom_imports = dict(imports=['mergevq_mm'], allow_failed_imports=False)

# As in pre-training, in [-1, 1]; mmdet and mmseg read BGR and turn it to RGB.
grey_values = dict(mean=[127.5, 127.5, 127.5], std=[127.5, 127.5, 127.5])

# The isotropic encoder: one map, stride 16. Another checkpoint:
#   --cfg-options model.backbone.init_cfg.checkpoint=FILE
mergevq_r = dict(
    type='mergevq_mm.MergeVQEncoder',
    arch='r-base',
    img_size=256,
    out_type='featmap',
    drop_path_rate=0.1,
    init_cfg=dict(
        type='Pretrained',
        checkpoint='work_dirs/mergevq_r/epoch_300.pth',
        prefix='backbone.',
    ),
)

# The hybrid one: its stem has maps at strides 4 and 8 (128 and 256 channels), its
# blocks at stride 16 (512 channels).
mergevq_g_r = dict(
    type='mergevq_mm.MergeVQEncoder',
    arch='g+r-d64',
    img_size=256,
    out_type='featmap',
    out_stages=(2, 3),
    drop_path_rate=0.1,
    init_cfg=dict(
        type='Pretrained',
        checkpoint='work_dirs/mergevq_g+r/epoch_270.pth',
        prefix='backbone.',
    ),
)

# AdamW; no decay of norms, scales and embeddings. For the isotropic encoder the rate
# falls by 0.7 from block to block towards the patches, as for other plain ViTs.
optim_g_r = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=1e-4, betas=(0.9, 0.999), weight_decay=0.05),
    paramwise_cfg=dict(
        norm_decay_mult=0.0,
        custom_keys={
            name: dict(decay_mult=0.0) for name in ('cls_token', 'pos_embed', '.gamma')
        },
    ),
    clip_grad=dict(max_norm=1.0),
)
optim_r = dict(
    optim_g_r,
    paramwise_cfg=dict(
        norm_decay_mult=0.0,
        # Of the keys that a name contains the longest counts.
        custom_keys={
            **{
                f'backbone.layers.{i}.': dict(lr_mult=0.7 ** (12 - i))
                for i in range(12)
            },
            **{
                f'backbone.layers.{i}.{part}': dict(
                    lr_mult=0.7 ** (12 - i), decay_mult=0.0
                )
                for i in range(12)
                for part in ('norm', 'ls')
            },
            'backbone.stem.projection': dict(lr_mult=0.7**13),
            'backbone.stem.norm': dict(lr_mult=0.7**13, decay_mult=0.0),
            'backbone.cls_token': dict(lr_mult=0.7**13, decay_mult=0.0),
            'backbone.pos_embed': dict(lr_mult=0.7**13, decay_mult=0.0),
        },
    ),
)

# 160,000 iterations of mmseg, with a warm-up.
poly_160k = [
    dict(type='LinearLR', start_factor=1e-6, by_epoch=False, begin=0, end=1500),
    dict(type='PolyLR', eta_min=0.0, power=1.0, begin=1500, end=160000, by_epoch=False),
]
