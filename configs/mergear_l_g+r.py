# MergeAR-L on MergeVQ (G+R): 256 raster steps; the cache holds prefix, window and
# distinct codes.
#
# Data      codes of ImageNet-1K (tools/extract_codes.py), validation images
# Hardware  8 GPUs of 80 GB; hours: not known to us
# Expected  paper: gFID 3.25 (3.27 in its text), IS 253.8 by the ADM suite; its
#           text says without guidance, the test here draws with it (see the model)
# Run by us no (needs ImageNet and GPUs); the tests run it shrunk
_base_ = [
    '_base_/models/mergear_l_g+r.py',
    '_base_/datasets/imagenet_codes_256.py',
    '_base_/schedules/mergear_bs1024_300e.py',
]

# Paper, table A2; the authors' code of stage 2 has none.
model = dict(label_smoothing=0.1)
