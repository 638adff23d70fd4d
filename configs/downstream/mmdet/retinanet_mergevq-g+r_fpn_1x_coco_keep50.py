# The same with merging: half of the tokens are left after the last block, and their
# maps are put back on the grid. Any other share, or a number: model.backbone.keep.
_base_ = ['retinanet_mergevq-g+r_fpn_1x_coco.py']

model = dict(backbone=dict(keep=0.5))
