# The MergeVQ (G+R) of the emoji for one GPU: convolutions four times and tokens 2.7
# times as wide, twice as deep, with larger batches and more epochs.
#
#   python tools/train.py configs/emoji/mergevq_g+r_emoji_gpu.py --fast
#
# Data      as mergevq_g+r_emoji.py
# Hardware  1 GPU of 80 GB; meant for ten minutes, not measured
# Run by us no (needs a GPU); the tests run it shrunk
_base_ = ['mergevq_g+r_emoji.py']

channels, multipliers, norm_groups = 32, (1, 2, 4, 8), 32
layers = 12
embed_dims = channels * multipliers[-1]

model = dict(
    backbone=dict(
        arch=dict(
            base_channels=channels,
            channel_mult=multipliers,
            num_res_blocks=2,
            num_layers=layers,
            num_heads=8,
            norm_groups=norm_groups,
        ),
        init_cfg=None,
    ),
    quantizer=dict(in_channels=embed_dims, norm_groups=norm_groups),
    neck=dict(embed_dims=256, num_heads=8, feedforward_channels=1024),
    decoder=dict(
        base_channels=channels,
        channel_mult=multipliers,
        num_res_blocks=2,
        num_layers=layers // 2,
        num_heads=8,
        norm_groups=norm_groups,
    ),
    head=dict(alignment=dict(in_channels=embed_dims)),
    discriminator=dict(base_channels=64),
    discriminator_start=2000,
)
optim_wrapper = dict(generator=dict(optimizer=dict(lr=5e-4)))
train_dataloader = dict(batch_size=256, num_workers=8, persistent_workers=True)
auto_scale_lr = dict(base_batch_size=256)
train_cfg = dict(max_epochs=300, val_interval=300)
param_scheduler = [
    dict(
        type='LinearLR',
        start_factor=0.02,
        by_epoch=True,
        end=10,
        convert_to_iter_based=True,
    ),
    dict(
        type='CosineAnnealingLR',
        by_epoch=True,
        begin=10,
        eta_min_ratio=0.01,
        convert_to_iter_based=True,
    ),
]
default_hooks = dict(checkpoint=dict(interval=50))
