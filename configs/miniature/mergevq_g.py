# MergeVQ (G) of the miniature: stride 2, 256 positions, mostly 64 tokens; a light
# alignment, as in the paper (a tenth of that of G+R).
_base_ = ['mergevq_g+r.py']

model = dict(
    backbone=dict(arch=dict(channel_mult=(1, 8))),
    neck=dict(grid=(16, 16)),
    decoder=dict(channel_mult=(1, 8)),
    head=dict(alignment=dict(loss_weight=0.12)),
    keep=dict(
        _delete_=True,
        target=64,
        candidates=[56, 64, 72, 81, 90, 100, 110, 121, 132],
        family='gaussian',
    ),
    test_cfg=dict(keep=[64, 256]),
)
