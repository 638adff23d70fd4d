# A small tokenizer of your own photographs, on any machine and without any weights to
# fetch: the networks of mergevq_photographs.py on random crops of 64 px.
#
#   MERGEVQ_FOLDER=FOLDER python tools/train.py configs/pictures/mergevq_folder.py
#
# MERGEVQ_STEPS, 1500 where it is not set, is the length of the training. Files that
# cannot be read are named and passed over, as long as they are no more than a tenth
# (`--cfg-options train_dataloader.dataset.max_bad=0.5`, or a number, allows more).
#
# Data      FOLDER holds image files, in sub-folders or not; classes play no part
# Hardware  two CPU cores
# Run by us on twelve photographs: ten minutes on one core (docs/own_images.md)
_base_ = ['mergevq_photographs.py']

import os  # noqa: E402  (mmengine looks for _base_ first)

folder = os.path.expanduser(os.environ.get('MERGEVQ_FOLDER', ''))

crop = dict(
    type='mmpretrain.RandomResizedCrop',
    scale=64,
    crop_ratio_range=(0.2, 1.0),
    interpolation='bicubic',
)
flip = dict(type='mmpretrain.RandomFlip', prob=0.5)
views = dict(type='mmpretrain.MultiView', num_views=[1], transforms=[[crop, flip]])

train_dataloader = dict(
    num_workers=1,
    persistent_workers=True,
    # A folder of ten photographs does as well as one of a million.
    sampler=dict(_delete_=True, type='InfiniteSampler', shuffle=True),
    dataset=dict(
        _delete_=True,
        type='mergevq_mm.ImageFolder',
        data_prefix=folder,
        variable='MERGEVQ_FOLDER',
        with_label=False,
        max_bad=0.1,
        pipeline=[_base_.load, views, _base_.pack],
    ),
)
# How far the training is, in dB and as a picture, is seen on eight of the images. They
# are trained on, too, so it does not tell how well others would do.
val_dataloader = dict(
    _delete_=True,
    batch_size=8,
    num_workers=0,
    persistent_workers=False,
    sampler=dict(type='DefaultSampler', shuffle=False),
    collate_fn=dict(type='default_collate'),
    dataset=dict(
        type='mergevq_mm.ImageFolder',
        data_prefix=folder,
        with_label=False,
        indices=8,
        pipeline=[
            _base_.load,
            dict(
                type='mmpretrain.ResizeEdge',
                scale=64,
                backend='pillow',
                interpolation='lanczos',
            ),
            dict(type='mmpretrain.CenterCrop', crop_size=64),
            _base_.pack,
        ],
    ),
)
val_evaluator = [dict(type='mergevq_mm.ReconstructionMetric', ssim=False)]
val_cfg = dict(_delete_=True)
custom_hooks = _base_.custom_hooks + [
    dict(type='mergevq_mm.ReconstructionVisualizationHook', num_images=8)
]

steps = os.environ.get('MERGEVQ_STEPS', '1500')
if not steps.isdecimal() or int(steps) < 1:
    raise ValueError(
        f"MERGEVQ_STEPS='{steps}' is no number of steps; give one such as 1500."
    )
steps = int(steps)
warm_up = max(1, min(100, steps // 15))
train_cfg = dict(
    _delete_=True, by_epoch=False, max_iters=steps, val_interval=max(1, steps // 5)
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.02, by_epoch=False, end=warm_up),
    dict(
        type='CosineAnnealingLR',
        by_epoch=False,
        begin=warm_up,
        end=steps,
        eta_min_ratio=0.01,
    ),
]
default_hooks = dict(checkpoint=dict(by_epoch=False, interval=500, max_keep_ckpts=1))
