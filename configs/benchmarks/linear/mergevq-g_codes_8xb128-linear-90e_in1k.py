# Linear probe of MergeVQ (G): mean of the 18-bit codes, merging off.
_base_ = ['mergevq-g+r_codes_8xb128-linear-90e_in1k.py']

model = dict(
    backbone=dict(
        arch='g-d64',
        init_cfg=dict(checkpoint='work_dirs/mergevq_g/epoch_270.pth'),
    ),
    neck=dict(
        quantizer=dict(init_cfg=dict(checkpoint='work_dirs/mergevq_g/epoch_270.pth')),
    ),
)
