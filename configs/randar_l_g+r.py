# RandAR-L on MergeVQ (G+R): 144 codes in random order, 64 steps, then source recovery.
#
# Data      codes of ImageNet-1K (tools/extract_codes.py), validation images
# Hardware  8 GPUs of 80 GB; hours: not known to us
# Expected  paper: gFID 2.63, IS 279.5, with the best guidance of a sweep
# Run by us no (needs ImageNet and GPUs); the tests run it shrunk
_base_ = [
    '_base_/models/randar_l_g+r.py',
    '_base_/datasets/imagenet_codes_256.py',
    '_base_/schedules/randar_bs1024_300e.py',
]

# Paper, table A2; the authors' code of stage 2 has none.
model = dict(label_smoothing=0.1)
