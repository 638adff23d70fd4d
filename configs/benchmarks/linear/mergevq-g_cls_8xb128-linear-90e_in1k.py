# Linear probe of MergeVQ (G): class token, merging off, 1,024 tokens.
_base_ = ['mergevq-g+r_cls_8xb128-linear-90e_in1k.py']

model = dict(
    backbone=dict(
        arch='g-d64',
        init_cfg=dict(checkpoint='work_dirs/mergevq_g/epoch_270.pth'),
    ),
)
