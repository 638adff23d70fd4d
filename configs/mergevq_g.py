# MergeVQ (G), d64: stride 8, 1,024 positions, for generation.
#
# Data      ImageNet-1K, 256 px, layout of mmpretrain under data/imagenet/
# Hardware  8 GPUs of 80 GB (the authors: 8 x A100-80G); hours: not known to us
# Expected  paper: rFID 1.06 at K=256, 0.54 at K=1024
# Run by us no (needs ImageNet and GPUs); the tests run it shrunk
_base_ = ['mergevq_g+r.py']

model = dict(
    backbone=dict(arch='g-d64'),
    neck=dict(grid=(32, 32)),
    decoder=dict(channel_mult=(1, 2, 4, 8)),
    head=dict(
        source=dict(loss_weight=0.5),
        alignment=dict(layers=2, loss_weight=0.1),
    ),
    keep=dict(target=256, family='gaussian', number=9),
    test_cfg=dict(keep=[256, 1024]),
)

# 8 GPUs x 8 images x 4 batches accumulated = 256.
train_dataloader = dict(batch_size=8)
optim_wrapper = dict(
    generator=dict(accumulative_counts=4),
    discriminator=dict(accumulative_counts=4),
)
auto_scale_lr = dict(base_batch_size=64)
