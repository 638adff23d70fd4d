# FCN on MergeVQ (R), ViT-B; merging off.
#
# Data      ADE20K, layout of mmseg under data/ade/
# Hardware  4 GPUs x 4 images; hours and memory: not known to us
# Expected  not known: the paper has no segmentation
# Run by us no (needs ADE20K and GPUs); the tests run it shrunk on photographs
_base_ = [
    'mmseg::fcn/fcn_r50-d8_4xb4-160k_ade20k-512x512.py',
    '../_base_/mergevq.py',
]

# Any image size: images are padded to multiples of the stride for testing.
# Both heads work at stride 16, the auxiliary one on block 8 of 12.
model = dict(
    data_preprocessor=dict(**_base_.grey_values, test_cfg=dict(size_divisor=16)),
    pretrained=None,
    backbone=dict(_delete_=True, **{**_base_.mergevq_r, 'out_indices': (7, 11)}),
    decode_head=dict(in_channels=768, in_index=1),
    auxiliary_head=dict(in_channels=768, in_index=0),
)

optim_wrapper = dict(_delete_=True, **_base_.optim_r)
param_scheduler = _base_.poly_160k
