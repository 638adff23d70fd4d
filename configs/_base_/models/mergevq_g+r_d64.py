# MergeVQ (G+R), the d64 model of the paper's Table A1: 62.67 M + 83.37 M parameters.
model = dict(
    type='mergevq_mm.MergeVQ',
    backbone=dict(type='mergevq_mm.MergeVQEncoder', arch='g+r-d64', img_size=256),
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
    # Weights of the authors' code; the paper's Table A1 is
    #   pixel=dict(l2=1.0), perceptual.loss_weight=0.7, gan_weight=0.8
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
    # mmpretrain's copy of the DINOv2-B weights. Without a network, give a path:
    #   --cfg-options model.target_generator.network.init_cfg.checkpoint=FILE
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
                checkpoint='https://download.openmmlab.com/mmpretrain/v1.0/dinov2/'
                'vit-base-p14_dinov2-pre_3rdparty_20230426-ba246503.pth',
                prefix='backbone.',
            ),
        ),
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
    ),
    keep=dict(target=144, family='gaussian', number=6),
    test_cfg=dict(keep=[144, 256]),
)
