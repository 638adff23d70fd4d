# Mask R-CNN on MergeVQ (R), ViT-B, with a simple feature pyramid; merging off.
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
model = dict(
    data_preprocessor=_base_.grey_values,
    backbone=dict(_delete_=True, **_base_.mergevq_r),
    neck=dict(
        _delete_=True,
        type='mergevq_mm.SimpleFeaturePyramid',
        in_channels=768,
        out_channels=256,
        scales=(4, 2, 1, 0.5),
        num_outs=5,
    ),
)

optim_wrapper = dict(_delete_=True, **_base_.optim_r)
