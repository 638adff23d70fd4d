# AdamW (0.5, 0.9) without weight decay for both sides, 1e-4 constant with two drops
# (paper Table A1: Step; the places of the drops are those of the authors' G+R run, at
# 85 % and 95 % of the epochs).
optimizer = dict(type='AdamW', lr=1e-4, betas=(0.5, 0.9), weight_decay=0.0)

# 8 GPUs x 16 images x 2 batches accumulated = 256.
optim_wrapper = dict(
    constructor='mmagic.MultiOptimWrapperConstructor',
    generator=dict(
        type='OptimWrapper',
        modules=['backbone', 'quantizer', 'neck', 'decoder', 'head'],
        optimizer=optimizer,
        accumulative_counts=2,
    ),
    discriminator=dict(
        type='OptimWrapper',
        modules=['discriminator'],
        optimizer=optimizer,
        accumulative_counts=2,
    ),
)

param_scheduler = [
    dict(type='MultiStepLR', by_epoch=True, milestones=[230, 257], gamma=0.1)
]

train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=270, val_interval=5)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')

# What the learning rate belongs to before accumulation: 8 GPUs x 16 images.
auto_scale_lr = dict(enable=False, base_batch_size=128)
