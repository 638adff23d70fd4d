# The same with merging: half of the tokens are left after the last block, and their
# maps are put back on the grid. Any other share, or a number: model.backbone.keep.
_base_ = ['fcn_mergevq-g+r_4xb4-160k_ade20k-512x512.py']

model = dict(backbone=dict(keep=0.5))
