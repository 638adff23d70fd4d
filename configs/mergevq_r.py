# MergeVQ (R), ViT-B: a plain patchify encoder, for representation.
#
# Data      ImageNet-1K, 256 px, layout of mmpretrain under data/imagenet/
# Hardware  8 GPUs of 80 GB (the authors: 8 x A100-80G); hours: not known to us
# Expected  paper: linear probe 79.8 %; rFID 4.67 at K=144
# Run by us no (needs ImageNet and GPUs); the tests run it shrunk
_base_ = ['mergevq_g+r.py']

model = dict(
    backbone=dict(arch='r-base', init_cfg=None),
    quantizer=dict(in_channels=768),
    head=dict(
        source=dict(loss_weight=1.0),
        alignment=dict(in_channels=768, loss_weight=1.0),
    ),
    keep=dict(target=36, family='exponential', number=5),
    # The paper reconstructs with 144 tokens, although it trains with 36 to 100.
    test_cfg=dict(keep=[36, 144]),
)

optim_wrapper = dict(
    generator=dict(clip_grad=dict(max_norm=5.0)),
    discriminator=dict(clip_grad=dict(max_norm=5.0)),
)
param_scheduler = [dict(type='CosineAnnealingLR', by_epoch=True, T_max=300)]
train_cfg = dict(max_epochs=300)
