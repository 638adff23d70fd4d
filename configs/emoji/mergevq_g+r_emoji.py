# A small MergeVQ (G+R) of colour images: 64 px, stride 8, 64 positions. All losses of
# the paper with its signs; weights are those of so small a network.
#
# Data      data/emoji with the weights of a frozen EfficientNet-Lite2 and its targets'
#           mean and deviation, all written by `bash tools/emoji.sh`
# Hardware  two CPU cores
# Run by us seeds 0 to 2, by `bash tools/emoji.sh`; the numbers stand in docs/emoji.md
_base_ = [
    '../_base_/models/mergevq_g+r_d64.py',
    '../_base_/datasets/emoji64.py',
    '../_base_/schedules/mergevq_bs256_270e.py',
    '../_base_/reconstruction_metrics.py',
    '../_base_/mergevq_runtime.py',
]

weights = _base_.data_root + '/efficientnet_lite2.safetensors'
targets = _base_.data_root + '/teacher.safetensors'

# Real ImageNet weights in 24 MB: teacher, perceptual network and Fréchet features. It
# takes images in [-1, 1].
efficientnet = dict(
    type='mmpretrain.TIMMBackbone',
    model_name='tf_efficientnet_lite2',
    init_cfg=dict(type='Pretrained', checkpoint=weights),
)
# The same as a pyramid of maps; the 'getter' runs only as far as the last one needed.
efficientnet_maps = dict(
    type='mmpretrain.TIMMBackbone',
    model_name='tf_efficientnet_lite2',
    features_only=True,
    feature_cls='getter',
    init_cfg=dict(
        type='Pretrained',
        checkpoint=weights,
        prefix='timm_model.',
        submodule='timm_model.model',
    ),
)
# The teacher's maps at stride 16 of images enlarged to 128 px, averaged over 2x2 cells,
# as on the digits: so small an encoder comes nearer to them than to the network's last
# features.
teacher = dict(
    type='mergevq_mm.FrozenTeacher',
    network=dict(**efficientnet_maps, out_indices=(3,)),
    input_size=128,
    pool_size=2,
)
teacher_width = 480

channels, multipliers, norm_groups = 8, (1, 2, 6, 12), 4
layers = 6
embed_dims = channels * multipliers[-1]

model = dict(
    backbone=dict(
        _delete_=True,
        type='mergevq_mm.MergeVQEncoder',
        arch=dict(
            stem='hybrid',
            base_channels=channels,
            channel_mult=multipliers,
            num_res_blocks=1,
            num_layers=layers,
            num_heads=4,
            norm_groups=norm_groups,
        ),
        img_size=64,
        layer_scale=0.1,
        # The usual N(0, 0.02) is too small for so narrow blocks.
        init_cfg=dict(type='Xavier', layer='Linear', distribution='uniform'),
    ),
    quantizer=dict(
        in_channels=embed_dims,
        norm_groups=norm_groups,
        entropy_weight=0.02,
        # Three parts of 64 values are learnt sooner than 64 and 4,096.
        split=(6, 6, 6),
    ),
    neck=dict(
        grid=(8, 8),
        embed_dims=64,
        num_heads=4,
        feedforward_channels=256,
        # What else a generator knows: the class, and where each group begins.
        code_layers=1,
        num_classes=_base_.num_classes,
        first_places=True,
    ),
    decoder=dict(
        base_channels=channels,
        channel_mult=multipliers,
        num_res_blocks=1,
        num_layers=layers // 2,
        num_heads=4,
        layer_scale=0.1,
        norm_groups=norm_groups,
    ),
    head=dict(
        pixel=dict(l1=2.0, l2=10.0),
        perceptual=dict(
            _delete_=True,
            type='mergevq_mm.PerceptualLoss',
            network=dict(**efficientnet_maps, out_indices=(0, 1, 2)),
            loss_weight=0.2,
        ),
        gan_weight=0.01,
        source=dict(loss_weight=0.25),
        alignment=dict(
            in_channels=embed_dims,
            out_channels=teacher_width,
            layers=2,
            loss='cosine',
            loss_weight=1.2,
        ),
    ),
    discriminator=dict(base_channels=16, num_conv=2),
    # It sees the encoder's view; the file has each feature's mean and deviation.
    target_generator=dict(_delete_=True, **teacher, standardize=targets),
    # The paper's distribution around 144 of 256 positions, here 36 of 64, and L/4.
    keep=dict(
        _delete_=True,
        target=36,
        candidates=[16, 25, 36, 49, 64],
        weights=[0.1, 0.15, 0.45, 0.15, 0.15],
    ),
    discriminator_start=5000,
    test_cfg=dict(keep=[16, 36, 64]),
)

optimizer = dict(type='AdamW', lr=2e-3, betas=(0.9, 0.99), weight_decay=0.0, fused=True)
optim_wrapper = dict(
    generator=dict(
        optimizer=optimizer, accumulative_counts=1, clip_grad=dict(max_norm=20.0)
    ),
    discriminator=dict(
        optimizer=dict(lr=2e-4, betas=(0.5, 0.9)), accumulative_counts=1
    ),
)
train_cfg = dict(max_epochs=48, val_interval=48)
param_scheduler = [
    dict(
        type='LinearLR',
        start_factor=0.02,
        by_epoch=True,
        end=1,
        convert_to_iter_based=True,
    ),
    dict(
        type='CosineAnnealingLR',
        by_epoch=True,
        begin=1,
        eta_min_ratio=0.01,
        convert_to_iter_based=True,
    ),
]

# Without Inception's weights the Fréchet distance takes the teacher's features.
features = dict(type='mergevq_mm.BackboneFeatures', network=efficientnet, input_size=64)
test_evaluator = _base_.val_evaluator + [
    dict(type='mergevq_mm.FrechetMetric', predicted=False, extractor=features),
]

custom_hooks = [
    dict(type='mergevq_mm.RunStateHook'),
    dict(type='mergevq_mm.NaNGuardHook', max_skips=3),
    # A short run needs a short memory: 0.99 instead of 0.999.
    dict(type='mergevq_mm.GeneratorEMAHook', momentum=0.01),
    dict(type='mergevq_mm.ReconstructionVisualizationHook', num_images=10),
    dict(type='mergevq_mm.ProgressHook'),
]
default_hooks = dict(checkpoint=dict(interval=5, max_keep_ckpts=1))
train_dataloader = dict(batch_size=16)
auto_scale_lr = dict(base_batch_size=16)
