# UPerNet on MergeVQ (G+R), d64, natural strides; merging off.
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
# Strides 4, 8, 16 and, from a later block, 16 again.
model = dict(
    data_preprocessor=dict(**_base_.grey_values, test_cfg=dict(size_divisor=16)),
    pretrained=None,
    backbone=dict(_delete_=True, **{**_base_.mergevq_g_r, 'out_indices': (7, 11)}),
    decode_head=dict(in_channels=[128, 256, 512, 512]),
    auxiliary_head=dict(in_channels=512),
)

optim_wrapper = dict(_delete_=True, **_base_.optim_g_r)
param_scheduler = _base_.poly_160k
