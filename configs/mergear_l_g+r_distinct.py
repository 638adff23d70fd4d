# MergeAR-L that draws the K codes alone, in the order of their first occurrence: 144
# steps instead of 256, then source recovery.
#
# Data      codes of ImageNet-1K (tools/extract_codes.py), validation images
# Hardware  8 GPUs of 80 GB; hours: not known to us
# Expected  nothing is published for this mode
# Run by us no (needs ImageNet and GPUs); the tests run it shrunk
_base_ = ['mergear_l_g+r.py']

model = dict(sequence='distinct')
