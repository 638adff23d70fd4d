# MergeVQ (G) with half the base channels: 38.22 M + 51.43 M parameters.
#
# Expected  authors' read-me, 200 epochs: rFID 0.48 at K=1024, 0.80 at K=256
# Run by us no (needs ImageNet and GPUs); the tests run it shrunk
_base_ = ['mergevq_g.py']

model = dict(
    backbone=dict(arch='g-d32'),
    quantizer=dict(in_channels=384),
    decoder=dict(base_channels=32, channel_mult=(2, 4, 8, 12)),
    head=dict(alignment=dict(in_channels=384)),
    keep=dict(number=8),
)
