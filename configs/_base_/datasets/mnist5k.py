# 5,000 real MNIST digits at 32 px, as RGB: 4,000 to train, 1,000 held out.
#
# Write them with `python tools/dataset_converters/mnist5k.py` (no download).
# `inputs` in training is a list of one view, [image]: B×3×32×32; one tensor in
# validation. The digits are not flipped: a mirrored digit is not a digit.
dataset_type = 'mergevq_mm.ImageFolder'
data_root = 'data/mnist5k/'

data_preprocessor = dict(
    type='mmpretrain.SelfSupDataPreprocessor',
    mean=[127.5, 127.5, 127.5],
    std=[127.5, 127.5, 127.5],
    to_rgb=True,
)

# 28×28 with 2 black pixels on each side is 32×32, so that this "random" crop has
# one place only; padding=4 shifts the digit by up to 2 pixels, a light augmentation.
# (mmcv's own Pad would put all 4 pixels on the right and at the bottom.)
pad_to_32 = dict(type='mmpretrain.RandomCrop', crop_size=32, padding=2, pad_val=0)

train_pipeline = [
    dict(type='mergevq_mm.LoadImage'),
    dict(type='mmpretrain.MultiView', num_views=[1], transforms=[[pad_to_32]]),
    dict(type='mmpretrain.PackInputs'),
]

test_pipeline = [
    dict(type='mergevq_mm.LoadImage'),
    pad_to_32,
    dict(type='mmpretrain.PackInputs'),
]

# What generators learn from (tools/extract_codes.py --views): shifted by up to a pixel
# and turned a little.
codes_pipeline = [
    dict(type='mergevq_mm.LoadImage'),
    dict(
        type='mmpretrain.Rotate',
        magnitude_range=(0, 10),
        magnitude_std='inf',
        pad_val=0,
    ),
    dict(type='mmpretrain.RandomCrop', crop_size=32, padding=3, pad_val=0),
    dict(type='mmpretrain.PackInputs'),
]

train_dataloader = dict(
    batch_size=64,
    num_workers=1,
    persistent_workers=True,
    drop_last=True,
    sampler=dict(type='DefaultSampler', shuffle=True),
    collate_fn=dict(type='default_collate'),
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        split='train',
        num_classes=10,
        pipeline=train_pipeline,
    ),
)

val_dataloader = dict(
    batch_size=100,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    collate_fn=dict(type='default_collate'),
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        split='val',
        num_classes=10,
        test_mode=True,
        pipeline=test_pipeline,
    ),
)

test_dataloader = val_dataloader
