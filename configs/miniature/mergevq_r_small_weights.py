# Ablation: MergeVQ (R) of the miniature from weights of N(0, 0.02) and with a norm for
# each channel of the patches: the sizes of a ViT-B in a narrow network.
_base_ = ['mergevq_r_channel_norm.py']

model = dict(backbone=dict(init_cfg=None))
