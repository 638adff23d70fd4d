# Ablation: MergeVQ (R) of the miniature whose positions start from sines and cosines,
# as those of MAE.
_base_ = ['mergevq_r.py']

model = dict(backbone=dict(pos_embed='sincos'))
