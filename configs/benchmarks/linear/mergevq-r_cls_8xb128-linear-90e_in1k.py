# Linear probe of MergeVQ (R): class token, merging off. Paper: 79.8 %.
_base_ = ['mergevq-g+r_cls_8xb128-linear-90e_in1k.py']

model = dict(
    backbone=dict(
        arch='r-base',
        init_cfg=dict(checkpoint='work_dirs/mergevq_r/epoch_300.pth'),
    ),
    neck=dict(input_features=768),
    head=dict(in_channels=768),
)
