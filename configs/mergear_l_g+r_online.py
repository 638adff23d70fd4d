# MergeAR-L on MergeVQ (G+R), trained on images instead of files of codes.
#
# Data      ImageNet-1K, 256 px, layout of mmpretrain under data/imagenet/
# Hardware  8 GPUs of 80 GB; hours: not known to us
# Expected  as mergear_l_g+r.py
# Run by us no (needs ImageNet and GPUs); the tests run it shrunk
_base_ = [
    '_base_/models/mergear_l_g+r.py',
    '_base_/datasets/imagenet_images_256.py',
    '_base_/schedules/mergear_bs1024_300e.py',
]

# Paper, table A2; the authors' code of stage 2 has none.
model = dict(label_smoothing=0.1)
