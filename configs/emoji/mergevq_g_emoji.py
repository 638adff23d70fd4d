# MergeVQ (G) of the emoji: stride 4, 256 positions, mostly 64 tokens; a light
# alignment, as in the paper (a tenth of that of G+R).
#
# Data      as mergevq_g+r_emoji.py
# Hardware  two CPU cores
# Run by us seed 0; the numbers stand in docs/emoji.md
_base_ = ['mergevq_g+r_emoji.py']

model = dict(
    backbone=dict(arch=dict(channel_mult=(1, 4, 12))),
    neck=dict(grid=(16, 16)),
    decoder=dict(channel_mult=(1, 4, 12)),
    head=dict(alignment=dict(loss_weight=0.12)),
    keep=dict(
        _delete_=True,
        target=64,
        candidates=[49, 64, 81, 100, 121, 144, 256],
        weights=[0.15, 0.4, 0.15, 0.1, 0.05, 0.05, 0.1],
    ),
    test_cfg=dict(keep=[64, 144, 256]),
)
