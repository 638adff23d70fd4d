# ImageNet-1K for stage 2: codes from the disk to train, the validation images to
# measure generated ones against.
#
# Write the codes with (about 17 GB for five K and both flips)
#   python tools/extract_codes.py configs/mergevq_g+r.py CHECKPOINT \
#       data/imagenet_codes/mergevq_g+r --keep 144 169 196 225 256
_base_ = ['./imagenet_mergevq_256.py']

data_preprocessor = dict(_delete_=True, type='mergevq_mm.GeneratorDataPreprocessor')

train_dataloader = dict(
    batch_size=64,
    num_workers=8,
    dataset=dict(
        _delete_=True,
        type='mergevq_mm.MergeVQCodes',
        root='data/imagenet_codes/mergevq_g+r',
        flip_prob=0.5,
    ),
)

# 50,000 images on 8 GPUs are 125 batches of 50 each.
val_dataloader = dict(batch_size=50)
test_dataloader = dict(batch_size=50)
