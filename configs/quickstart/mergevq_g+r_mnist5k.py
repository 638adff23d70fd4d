# The quickstart: a small MergeVQ (G+R) on 5,000 MNIST digits, all losses on.
#
# Data      data/mnist5k, written by tools/dataset_converters/mnist5k.py
# Hardware  two CPU cores, 6 to 10 minutes of training
# Run by us yes, by `bash tools/quickstart.sh`; the numbers stand in docs/quickstart.md
_base_ = [
    '../_base_/models/mergevq_g+r_d64.py',
    '../_base_/datasets/mnist5k.py',
    '../_base_/schedules/mergevq_bs256_270e.py',
    '../_base_/reconstruction_metrics.py',
    '../_base_/mergevq_runtime.py',
]

weights = 'data/weights/efficientnet_lite0.safetensors'
targets = 'data/mnist5k/efficientnet_lite0_stride16.safetensors'

# Real ImageNet weights in 18 MB: teacher, perceptual network and Fréchet features.
# It takes images in [-1, 1].
efficientnet = dict(
    type='mmpretrain.TIMMBackbone',
    model_name='tf_efficientnet_lite0',
    init_cfg=dict(type='Pretrained', checkpoint=weights),
)
# The same as a pyramid of maps; the 'getter' runs only as far as the last one needed.
efficientnet_maps = dict(
    type='mmpretrain.TIMMBackbone',
    model_name='tf_efficientnet_lite0',
    features_only=True,
    feature_cls='getter',
    init_cfg=dict(
        type='Pretrained',
        checkpoint=weights,
        prefix='timm_model.',
        submodule='timm_model.model',
    ),
)

# The teacher's maps at stride 16, averaged over 2x2 cells: on digits a linear probe of
# them is 98.4 % right, of the network's last features (for photographs) 91.7 %.
# tools/extract_targets.py computes them once; the training reads the file.
teacher = dict(
    type='mergevq_mm.FrozenTeacher',
    network=dict(**efficientnet_maps, out_indices=(3,)),
    input_size=64,
    pool_size=2,
)

# 0.38 M parameters of the encoder, 0.56 M of the decoder. Widths below 64 learn better
# with few groups in their norms.
channels, multipliers, norm_groups = 8, (1, 4, 8), 4
# Few tokens merge in each of many layers, so that only the most similar ones do.
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
        img_size=32,
        layer_scale=0.1,
    ),
    quantizer=dict(
        in_channels=embed_dims,
        norm_groups=norm_groups,
        entropy_weight=0.02,
        # Against the paper's sign it is a rate: black positions get few codes, not
        # thousands, the picture is no worse, and a generator can predict the codes
        # (docs/measurements.md).
        batch_entropy_weight=-0.25,
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
        num_classes=10,
        first_places=True,
        # Its gradient in the codes makes the prediction better and the picture worse:
        # see docs/measurements.md.
        detach=True,
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
        pixel=dict(_delete_=True, l2=10.0),
        perceptual=dict(
            _delete_=True,
            type='mergevq_mm.PerceptualLoss',
            network=dict(**efficientnet_maps, out_indices=(0, 1, 2)),
            loss_weight=0.1,
        ),
        gan_weight=0.005,
        alignment=dict(
            in_channels=embed_dims,
            out_channels=448,
            layers=2,
            loss='cosine',
            loss_weight=1.2,
        ),
    ),
    discriminator=dict(base_channels=32, num_conv=2),
    target_generator=dict(
        _delete_=True,
        type='mergevq_mm.StoredTeacher',
        file=targets,
        standardize=True,
    ),
    keep=dict(
        _delete_=True,
        target=16,
        candidates=[16, 25, 36, 49, 64],
        weights=[0.6, 0.15, 0.1, 0.05, 0.1],
    ),
    discriminator_start=1750,
    test_cfg=dict(keep=[16, 64]),
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
train_cfg = dict(max_epochs=18, val_interval=18)
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
test_evaluator = _base_.val_evaluator + [
    dict(
        type='mergevq_mm.FrechetMetric',
        predicted=False,
        extractor=dict(
            type='mergevq_mm.BackboneFeatures',
            network=efficientnet,
            input_size=64,
        ),
    ),
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
# 32 digits load in a few milliseconds: a worker would only take a core away.
train_dataloader = dict(batch_size=32, num_workers=0, persistent_workers=False)
auto_scale_lr = dict(base_batch_size=32)
val_dataloader = dict(num_workers=0, persistent_workers=False)
test_dataloader = dict(num_workers=0, persistent_workers=False)
