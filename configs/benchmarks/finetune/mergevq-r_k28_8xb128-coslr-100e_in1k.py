# Fine-tuning of MergeVQ (R): merging on, 28 of 196 tokens (a seventh).
_base_ = ['mergevq-r_8xb128-coslr-100e_in1k.py']

model = dict(backbone=dict(keep=28))
