# MergeVQ (G+R), the d64 model of the paper's Table A1: 62.67 M + 83.37 M parameters.

# mmpretrain's copy of DINOv2-B, downloaded before the training starts. Without a
# network name a file: DINOV2_B_WEIGHTS=FILE python tools/train.py ...
dinov2_weights = '{{$DINOV2_B_WEIGHTS:https://download.openmmlab.com/mmpretrain/v1.0/dinov2/vit-base-p14_dinov2-pre_3rdparty_20230426-ba246503.pth}}'  # noqa: E501

model = dict(
    type='mergevq_mm.MergeVQ',
    # The paper initialises the blocks and the class token of G and G+R from DINOv2:
    # ViT-B, from the teacher's file, for d64 and d96; ViT-S for d32. R starts random.
    # Off: --cfg-options model.backbone.init_cfg=None
    backbone=dict(
        type='mergevq_mm.MergeVQEncoder',
        arch='g+r-d64',
        img_size=256,
        init_cfg=dict(
            type='mergevq_mm.WeightSelection',
            checkpoint=dinov2_weights,
            prefix='backbone.',
        ),
    ),
    quantizer=dict(
        type='mergevq_mm.LFQ',
        bits=18,
        in_channels=512,
        entropy_weight=0.1,
        commitment_weight=0.25,
    ),
    neck=dict(type='mergevq_mm.SourceRecovery', bits=18, grid=(16, 16)),
    decoder=dict(
        type='mergevq_mm.MergeVQDecoder',
        bits=18,
        base_channels=64,
        channel_mult=(1, 1, 2, 4, 8),
        num_heads=8,
    ),
    # Weights of the authors' code; those of the paper's Table A1 stand in
    # configs/mergevq_g+r_a1.py.
    head=dict(
        type='mergevq_mm.MergeVQHead',
        pixel=dict(l1=1.0),
        perceptual=dict(type='mergevq_mm.LPIPSLoss', net='vgg', loss_weight=1.0),
        gan_weight=0.1,
        source=dict(loss_weight=0.5),
        alignment=dict(
            in_channels=512, out_channels=768, layers=3, loss='kl', loss_weight=1.0
        ),
    ),
    discriminator=dict(
        type='mmagic.PatchDiscriminator',
        in_channels=3,
        base_channels=64,
        num_conv=3,
        norm_cfg=dict(type='BN'),
        init_cfg=dict(type='normal', gain=0.02),
    ),
    target_generator=dict(
        type='mergevq_mm.FrozenTeacher',
        network=dict(
            type='mmpretrain.VisionTransformer',
            arch='base',
            img_size=224,
            patch_size=14,
            layer_scale_init_value=1e-5,
            out_type='cls_token',
            init_cfg=dict(
                type='Pretrained',
                checkpoint=dinov2_weights,
                prefix='backbone.',
            ),
        ),
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
    ),
    keep=dict(target=144, family='gaussian', number=6),
    test_cfg=dict(keep=[144, 256]),
)
