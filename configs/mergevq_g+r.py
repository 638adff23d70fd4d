# MergeVQ (G+R), d64: one tokenizer for generation and representation.
#
# Data      ImageNet-1K, 256 px, layout of mmpretrain under data/imagenet/
# Hardware  8 GPUs of 80 GB (the authors: 8 x A100-80G); hours: not known to us
# Expected  paper: rFID 1.48 at K=144, 1.12 at K=256; linear probe 77.9 %
# Run by us no (needs ImageNet and GPUs); the tests run it shrunk
_base_ = [
    '_base_/models/mergevq_g+r_d64.py',
    '_base_/datasets/imagenet_mergevq_256.py',
    '_base_/schedules/mergevq_bs256_270e.py',
    '_base_/mergevq_evaluation.py',
    '_base_/mergevq_runtime.py',
]
