# MergeVQ (R) of the emoji: patches of 8 pixels, mostly 9 of 64 tokens, twice the weight
# of source recovery.
#
# Data      as mergevq_g+r_emoji.py
# Hardware  two CPU cores
# Run by us seed 0; the numbers stand in docs/emoji.md
_base_ = ['mergevq_g+r_emoji.py']

model = dict(
    backbone=dict(
        arch=dict(
            _delete_=True,
            stem='patch',
            embed_dims=_base_.embed_dims,
            patch_size=8,
            num_layers=_base_.layers,
            num_heads=4,
            # As in the stem of G+R; one group a channel would hide colours.
            norm_groups=_base_.norm_groups,
        ),
    ),
    head=dict(source=dict(loss_weight=0.5)),
    keep=dict(
        _delete_=True,
        target=9,
        candidates=[9, 16, 25],
        family='exponential',
    ),
    # 36 of 64, as the paper reconstructs with 144 of 256.
    test_cfg=dict(keep=[9, 36, 64]),
)
