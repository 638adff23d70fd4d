# Linear probe of MergeVQ (R): class token, 36 of 256 tokens.
_base_ = ['mergevq-r_cls_8xb128-linear-90e_in1k.py']

model = dict(backbone=dict(keep=36))
