# MergeVQ (G) with half the base channels: 38.22 M + 51.43 M parameters.
#
# Expected  authors' read-me, 200 epochs: rFID 0.48 at K=1024, 0.80 at K=256
# Run by us no (needs ImageNet and GPUs); the tests run it shrunk
_base_ = ['mergevq_g.py']

# As narrow as the blocks; without a network: DINOV2_S_WEIGHTS=FILE python ...
dinov2_s_weights = '{{$DINOV2_S_WEIGHTS:https://download.openmmlab.com/mmpretrain/v1.0/dinov2/vit-small-p14_dinov2-pre_3rdparty_20230426-5641ca5a.pth}}'  # noqa: E501

model = dict(
    backbone=dict(arch='g-d32', init_cfg=dict(checkpoint=dinov2_s_weights)),
    quantizer=dict(in_channels=384),
    decoder=dict(base_channels=32, channel_mult=(2, 4, 8, 12)),
    head=dict(alignment=dict(in_channels=384)),
    keep=dict(number=8),
)
