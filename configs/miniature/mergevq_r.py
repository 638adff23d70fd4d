# MergeVQ (R) of the miniature: patches of 4 pixels, mostly 9 of 64 tokens, twice the
# weight of source recovery.
_base_ = ['mergevq_g+r.py']

model = dict(
    backbone=dict(
        arch=dict(
            _delete_=True,
            stem='patch',
            embed_dims=64,
            patch_size=4,
            num_layers=6,
            num_heads=4,
            # As in the narrow stem of G+R; one group a channel would hide colours.
            norm_groups=4,
        ),
    ),
    head=dict(source=dict(loss_weight=1.0)),
    keep=dict(
        _delete_=True,
        target=9,
        candidates=[9, 12, 16, 20, 25],
        family='exponential',
    ),
    # 36 of 64, as the paper reconstructs with 144 of 256.
    test_cfg=dict(keep=[9, 36, 64]),
)
