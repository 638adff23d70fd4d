# RandAR-L on MergeVQ (G+R): 144 codes in random order, 64 steps, then source recovery.
#
# Data      codes of ImageNet-1K (tools/extract_codes.py), validation images
# Hardware  8 GPUs of 80 GB; hours: not known to us. Of an image of 256 codes autograd
#           keeps 1.43 GB in float32 (counted by saved_tensors_hooks; a code and its
#           instruction are two tokens), of 32 images 46 GB, beside 5.5 GB of weights,
#           gradients and moments
# Expected  paper: gFID 2.63, IS 279.5, with the best guidance of a sweep
# Run by us no (needs ImageNet and GPUs); the tests run it shrunk
_base_ = [
    '_base_/models/randar_l_g+r.py',
    '_base_/datasets/imagenet_codes_256.py',
    '_base_/schedules/randar_bs1024_300e.py',
]

# Paper, table A2; the authors' code of stage 2 has none.
model = dict(label_smoothing=0.1)

# 8 GPUs x 32 images x 4 batches accumulated = 1024.
train_dataloader = dict(batch_size=32)
optim_wrapper = dict(accumulative_counts=4)
auto_scale_lr = dict(base_batch_size=256)
