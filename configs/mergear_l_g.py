# MergeAR-L on MergeVQ (G): 1,024 raster steps.
#
# Data      codes of ImageNet-1K (tools/extract_codes.py), validation images
# Hardware  8 GPUs of 80 GB; hours: not known to us
# Expected  paper: gFID 3.05, IS 260.9 by the ADM suite; its text says without guidance,
#           the test here draws with it (see the model)
# Run by us no (needs ImageNet and GPUs); the tests run it shrunk
# Codes     tools/extract_codes.py configs/mergevq_g.py CHECKPOINT \
#               data/imagenet_codes/mergevq_g \
#               --keep 256 324 400 484 576 676 784 900 1024  (about 0.1 TB)
_base_ = ['mergear_l_g+r.py']

model = dict(
    tokenizer=dict(
        model='configs/mergevq_g.py', checkpoint='work_dirs/mergevq_g/epoch_270.pth'
    ),
    # Every other square of the paper's [256, 1024], mostly 256.
    keep=dict(
        _delete_=True,
        target=256,
        family='exponential',
        candidates=[256, 324, 400, 484, 576, 676, 784, 900, 1024],
    ),
)

# 8 GPUs x 16 images x 8 batches accumulated = 1024.
train_dataloader = dict(
    batch_size=16, dataset=dict(root='data/imagenet_codes/mergevq_g')
)
optim_wrapper = dict(accumulative_counts=8)
auto_scale_lr = dict(base_batch_size=128)
