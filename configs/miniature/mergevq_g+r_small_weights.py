# Ablation: MergeVQ (G+R) of the miniature from weights of N(0, 0.02), the usual start
# of ViTs, which are twelve times as wide.
_base_ = ['mergevq_g+r.py']

model = dict(backbone=dict(init_cfg=None))
