# MergeVQ (G+R) with half the base channels: 38.55 M + 51.95 M parameters.
#
# Expected  authors' read-me, 270 epochs: rFID 1.27 at K=256, 1.74 at K=144
# Run by us no (needs ImageNet and GPUs); the tests run it shrunk
_base_ = ['mergevq_g+r.py']

# As narrow as the blocks; without a network: DINOV2_S_WEIGHTS=FILE python ...
dinov2_s_weights = '{{$DINOV2_S_WEIGHTS:https://download.openmmlab.com/mmpretrain/v1.0/dinov2/vit-small-p14_dinov2-pre_3rdparty_20230426-5641ca5a.pth}}'  # noqa: E501

model = dict(
    backbone=dict(arch='g+r-d32', init_cfg=dict(checkpoint=dinov2_s_weights)),
    quantizer=dict(in_channels=384),
    decoder=dict(base_channels=32, channel_mult=(2, 2, 4, 8, 12)),
    head=dict(alignment=dict(in_channels=384)),
)
