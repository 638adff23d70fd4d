# Fine-tuning of MergeVQ (G): mean of the tokens, merging off.
_base_ = ['mergevq-g+r_8xb128-coslr-100e_in1k.py']

model = dict(
    backbone=dict(
        arch='g-d64',
        init_cfg=dict(checkpoint='work_dirs/mergevq_g/epoch_270.pth'),
    ),
)
