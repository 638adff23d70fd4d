# Mask R-CNN on MergeVQ (G+R), d64, natural strides; merging off.
#
# Data      COCO 2017, layout of mmdet under data/coco/
# Hardware  8 GPUs x 2 images; hours and memory: not known to us
# Expected  not known: the paper has no detection
# Run by us no (needs COCO and GPUs); the tests run it shrunk on photographs
_base_ = [
    'mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py',
    '../_base_/mergevq.py',
]

# Any image size: batches are padded to multiples of 32, which the stride 16 divides.
# The FPN takes strides 4, 8 and 16 and subsamples to 32 and 64.
model = dict(
    data_preprocessor=_base_.grey_values,
    backbone=dict(_delete_=True, **_base_.mergevq_g_r),
    neck=dict(in_channels=[128, 256, 512]),
)

optim_wrapper = dict(_delete_=True, **_base_.optim_g_r)
