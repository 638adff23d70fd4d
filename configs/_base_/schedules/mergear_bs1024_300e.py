# AdamW (0.9, 0.95) at 4e-4 for a batch of 1024 (spec section 17, row 15), weight decay
# on matrices alone; 6 epochs of warm-up, then linearly to a tenth, as in the authors'
# code of stage 2. The runtime is inherited here, for mmagic's sets some of the keys.
_base_ = ['../generation_runtime.py']

# 8 GPUs x 64 images x 2 batches accumulated = 1024.
optim_wrapper = dict(
    _delete_=True,
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=4e-4, betas=(0.9, 0.95), weight_decay=0.05),
    paramwise_cfg=dict(flat_decay_mult=0.0),
    clip_grad=dict(max_norm=1.0),
    accumulative_counts=2,
)

param_scheduler = [
    dict(
        type='LinearLR',
        start_factor=0.005,
        by_epoch=True,
        end=6,
        convert_to_iter_based=True,
    ),
    dict(
        type='LinearLR',
        start_factor=1.0,
        end_factor=0.1,
        by_epoch=True,
        begin=6,
        end=300,
        convert_to_iter_based=True,
    ),
]

train_cfg = dict(
    _delete_=True, type='EpochBasedTrainLoop', max_epochs=300, val_interval=25
)

# What the learning rate belongs to before accumulation: 8 GPUs x 64 images.
auto_scale_lr = dict(enable=False, base_batch_size=512)
