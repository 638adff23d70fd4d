# MergeVQ (G+R) with 96 base channels: 140.91 M + 187.19 M parameters.
#
# Expected  authors' read-me, 200 epochs: rFID 1.03 at K=256, 1.33 at K=144
# Run by us no (needs ImageNet and GPUs); the tests run it shrunk
_base_ = ['mergevq_g+r.py']

model = dict(
    backbone=dict(arch='g+r-d96'),
    quantizer=dict(in_channels=768),
    decoder=dict(base_channels=96, num_heads=12),
    head=dict(alignment=dict(in_channels=768)),
)

# The authors clip the gradient of this model as of R.
optim_wrapper = dict(
    generator=dict(clip_grad=dict(max_norm=5.0)),
    discriminator=dict(clip_grad=dict(max_norm=5.0)),
)
