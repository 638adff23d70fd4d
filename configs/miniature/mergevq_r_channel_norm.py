# Ablation: MergeVQ (R) of the miniature with a norm for each channel of the patches, as
# in the authors' code; it takes an image's mean colour away.
_base_ = ['mergevq_r.py']

model = dict(backbone=dict(arch=dict(norm_groups=64)))
