# Linear probe of MergeVQ (G+R): class token, merging on, 144 of 256 tokens.
_base_ = ['mergevq-g+r_cls_8xb128-linear-90e_in1k.py']

model = dict(backbone=dict(keep=144))
