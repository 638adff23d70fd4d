# Linear probe of MergeVQ (G): mean of the tokens, merging off.
_base_ = ['mergevq-g_cls_8xb128-linear-90e_in1k.py']

model = dict(backbone=dict(out_type='avg_featmap'))
