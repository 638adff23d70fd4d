# UPerNet on MergeVQ (R), ViT-B; merging off.
#
# Data      ADE20K, layout of mmseg under data/ade/
# Hardware  4 GPUs x 4 images; hours and memory: not known to us
# Expected  not known: the paper has no segmentation
# Run by us no (needs ADE20K and GPUs); the tests run it shrunk on photographs
_base_ = [
    'mmseg::upernet/upernet_r50_4xb4-160k_ade20k-512x512.py',
    '../_base_/mergevq.py',
]

# Any image size: images are padded to multiples of the stride for testing.
model = dict(
    data_preprocessor=dict(**_base_.grey_values, test_cfg=dict(size_divisor=16)),
    pretrained=None,
    backbone=dict(_delete_=True, **{**_base_.mergevq_r, 'out_indices': (3, 5, 7, 11)}),
    # mmseg's pyramid for plain ViTs: strides 4, 8, 16 and 32
    neck=dict(type='Feature2Pyramid', embed_dim=768, rescales=[4, 2, 1, 0.5]),
    decode_head=dict(in_channels=[768, 768, 768, 768]),
    auxiliary_head=dict(in_channels=768),
)

optim_wrapper = dict(_delete_=True, **_base_.optim_r)
param_scheduler = _base_.poly_160k
