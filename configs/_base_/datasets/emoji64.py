# 4,087 emoji of Google and Twitter at 64 px on white: 3,523 to train, 564 held out,
# nine groups, 99 sub-groups. An emoji is on one side with all that resembles it.
#
# Write them with `python tools/dataset_converters/emoji.py` into data/emoji, or into
# another folder that MERGEVQ_EMOJI names. `inputs` in training is a list of one view,
# [image]: B×3×64×64; one tensor in validation.
dataset_type = 'mergevq_mm.ImageFolder'
data_root = '{{$MERGEVQ_EMOJI:data/emoji}}'
num_classes = 9

# The second set of labels: the same images by sub-group. As the dataset of a loader:
# dataset=dict(num_classes=99, ann_file=subgroups['train']).
num_subgroups = 99
subgroups = dict(train='meta/train_subgroups.txt', val='meta/val_subgroups.txt')

data_preprocessor = dict(
    type='mmpretrain.SelfSupDataPreprocessor',
    mean=[127.5, 127.5, 127.5],
    std=[127.5, 127.5, 127.5],
    to_rgb=True,
)

load = dict(type='mergevq_mm.LoadImage')
# One number would fill the first channel alone: blue.
white = (255, 255, 255)
# The mirrored emoji, shifted by up to 4 pixels on its white; each with a probability of
# one half a part of it, enlarged, and likewise turned and in other colours.
shift = dict(type='mmpretrain.RandomCrop', crop_size=64, padding=4, pad_val=white)
flip = dict(type='mmpretrain.RandomFlip', prob=0.5)
enlarge = dict(
    type='mmcv.RandomApply',
    prob=0.5,
    transforms=dict(
        type='mmpretrain.RandomResizedCrop',
        scale=64,
        crop_ratio_range=(0.5, 1.0),
        interpolation='bicubic',
    ),
)
turn = dict(
    type='mmpretrain.Rotate',
    prob=0.5,
    magnitude_range=(0, 15),
    magnitude_std='inf',
    pad_val=white,
    interpolation='bicubic',
)
colour = dict(
    type='mmcv.RandomApply',
    prob=0.5,
    transforms=dict(type='mmpretrain.ColorJitter', saturation=0.3, hue=0.1),
)
view = [shift, flip, enlarge, turn, colour]

train_pipeline = [
    load,
    dict(type='mmpretrain.MultiView', num_views=[1], transforms=[view]),
    dict(type='mmpretrain.PackInputs'),
]

test_pipeline = [load, dict(type='mmpretrain.PackInputs')]

# What `tools/extract_codes.py --views N` would encode: shifted a little. The tool adds
# the mirrored view itself; tools/emoji.sh takes the plain and the mirrored one alone.
codes_pipeline = [
    load,
    dict(type='mmpretrain.RandomCrop', crop_size=64, padding=2, pad_val=white),
    dict(type='mmpretrain.PackInputs'),
]

train_dataloader = dict(
    batch_size=32,
    num_workers=0,
    persistent_workers=False,
    drop_last=True,
    sampler=dict(type='DefaultSampler', shuffle=True),
    collate_fn=dict(type='default_collate'),
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        split='train',
        num_classes=num_classes,
        pipeline=train_pipeline,
    ),
)

val_dataloader = dict(
    batch_size=100,
    num_workers=0,
    persistent_workers=False,
    sampler=dict(type='DefaultSampler', shuffle=False),
    collate_fn=dict(type='default_collate'),
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        split='val',
        num_classes=num_classes,
        test_mode=True,
        pipeline=test_pipeline,
    ),
)

test_dataloader = val_dataloader
