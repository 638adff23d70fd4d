# Ablation: MergeVQ (R) of the miniature whose blocks stand on the convolutions of G+R,
# not on patches.
_base_ = ['mergevq_r.py']

model = dict(
    backbone=dict(
        arch=dict(
            _delete_=True,
            stem='hybrid',
            base_channels=8,
            channel_mult=(1, 4, 8),
            num_res_blocks=1,
            num_layers=6,
            num_heads=4,
            norm_groups=4,
        ),
    ),
)
