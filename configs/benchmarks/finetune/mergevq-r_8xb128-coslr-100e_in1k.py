# Fine-tuning of MergeVQ (R): mean of the tokens, merging off. Paper: 84.2 %.
_base_ = ['mergevq-g+r_8xb128-coslr-100e_in1k.py']

model = dict(
    backbone=dict(
        arch='r-base',
        init_cfg=dict(checkpoint='work_dirs/mergevq_r/epoch_300.pth'),
    ),
    head=dict(in_channels=768),
)
