# MergeAR-B on MergeVQ (G).
#
# Data      codes of ImageNet-1K (tools/extract_codes.py), validation images
# Hardware  8 GPUs of 80 GB; hours: not known to us
# Expected  nothing is published for this size
# Run by us no (needs ImageNet and GPUs); the tests run it shrunk
_base_ = ['mergear_l_g.py']

model = dict(arch='B')

# 8 GPUs x 32 images x 4 batches accumulated = 1024.
train_dataloader = dict(batch_size=32)
optim_wrapper = dict(accumulative_counts=4)
auto_scale_lr = dict(base_batch_size=256)
