# Linear probe of MergeVQ (R): mean of the 18-bit codes, merging off.
_base_ = ['mergevq-g+r_codes_8xb128-linear-90e_in1k.py']

model = dict(
    backbone=dict(
        arch='r-base',
        init_cfg=dict(checkpoint='work_dirs/mergevq_r/epoch_300.pth'),
    ),
    neck=dict(
        quantizer=dict(
            in_channels=768,
            init_cfg=dict(checkpoint='work_dirs/mergevq_r/epoch_300.pth'),
        ),
    ),
)
