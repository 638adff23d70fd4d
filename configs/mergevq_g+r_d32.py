# MergeVQ (G+R) with half the base channels: 38.55 M + 51.95 M parameters.
#
# Expected  authors' read-me, 270 epochs: rFID 1.27 at K=256, 1.74 at K=144
# Run by us no (needs ImageNet and GPUs); the tests run it shrunk
_base_ = ['mergevq_g+r.py']

model = dict(
    backbone=dict(arch='g+r-d32'),
    quantizer=dict(in_channels=384),
    decoder=dict(base_channels=32, channel_mult=(2, 2, 4, 8, 12)),
    head=dict(alignment=dict(in_channels=384)),
)
