# Linear probe of MergeVQ (G): class token, 256 of 1,024 tokens.
_base_ = ['mergevq-g_cls_8xb128-linear-90e_in1k.py']

model = dict(backbone=dict(keep=256))
