# RandAR-L on MergeVQ (G): 256 codes in random order, 88 steps, then source recovery.
#
# Data      codes of ImageNet-1K (tools/extract_codes.py), validation images
# Hardware  8 GPUs of 80 GB; hours: not known to us. Of an image of 1,024 codes autograd
#           keeps 5.73 GB in float32 (counted as in randar_l_g+r.py), of 8 images 46 GB
# Expected  paper: gFID 2.24, IS 320.4, with the best guidance of a sweep
# Run by us no (needs ImageNet and GPUs); the tests run it shrunk
# Codes     tools/extract_codes.py configs/mergevq_g.py CHECKPOINT \
#               data/imagenet_codes/mergevq_g \
#               --keep 256 324 400 484 576 676 784 900 1024  (about 0.1 TB)
_base_ = ['randar_l_g+r.py']

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
    sample_cfg=dict(num_steps=88),
)

# 8 GPUs x 8 images x 16 batches accumulated = 1024.
train_dataloader = dict(
    batch_size=8, dataset=dict(root='data/imagenet_codes/mergevq_g')
)
optim_wrapper = dict(accumulative_counts=16)
auto_scale_lr = dict(base_batch_size=64)
