# ImageNet-1K for stage 1: 256 px images and the two views of the alignment.
#
# `inputs` in training is a list [image, student_view, teacher_view]:
#   image         B×3×256×256  shorter edge to 256 (bicubic), random crop, flip
#   student_view  B×3×224×224  random resized crop, scale (0.08, 1), bicubic, flip
#   teacher_view  B×3×224×224  shorter edge to 224 (bicubic), random crop, no flip
# and in validation one tensor: shorter edge to 256 (bilinear), centre crop.
# Spec sections 8 and 10. Batches of 16 a GPU; the G model overrides it with 8.
#
# Layout: data/imagenet/{train,val}/<class>/<image>.JPEG (or meta/{train,val}.txt).
# The authors do not flip the image: for parity with them
#   --cfg-options train_dataloader.dataset.pipeline.1.transforms.0.2.prob=0.0
_base_ = ['mmpretrain::_base_/datasets/imagenet_bs512_mae.py']

dataset_type = 'mergevq_mm.ImageFolder'
data_root = 'data/imagenet/'

data_preprocessor = dict(
    type='mmpretrain.SelfSupDataPreprocessor',
    mean=[127.5, 127.5, 127.5],
    std=[127.5, 127.5, 127.5],
    to_rgb=True,
)

image_pipeline = [
    dict(
        type='mmpretrain.ResizeEdge',
        scale=256,
        edge='short',
        backend='pillow',
        interpolation='bicubic',
    ),
    dict(type='mmpretrain.RandomCrop', crop_size=256),
    dict(type='mmpretrain.RandomFlip', prob=0.5, direction='horizontal'),
]

student_pipeline = [
    dict(
        type='mmpretrain.RandomResizedCrop',
        scale=224,
        crop_ratio_range=(0.08, 1.0),
        backend='pillow',
        interpolation='bicubic',
    ),
    dict(type='mmpretrain.RandomFlip', prob=0.5, direction='horizontal'),
]

teacher_pipeline = [
    dict(
        type='mmpretrain.ResizeEdge',
        scale=224,
        edge='short',
        backend='pillow',
        interpolation='bicubic',
    ),
    dict(type='mmpretrain.RandomCrop', crop_size=224),
]

train_pipeline = [
    dict(type='mergevq_mm.LoadImage'),
    dict(
        type='mmpretrain.MultiView',
        num_views=[1, 1, 1],
        transforms=[image_pipeline, student_pipeline, teacher_pipeline],
    ),
    dict(type='mmpretrain.PackInputs'),
]

test_pipeline = [
    dict(type='mergevq_mm.LoadImage'),
    dict(
        type='mmpretrain.ResizeEdge',
        scale=256,
        edge='short',
        backend='pillow',
        interpolation='bilinear',
    ),
    dict(type='mmpretrain.CenterCrop', crop_size=256),
    dict(type='mmpretrain.PackInputs'),
]

# Random views for generators (tools/extract_codes.py --views 10), as LlamaGen's crops:
# shorter edge to 1.1 * 256.
codes_pipeline = [
    dict(type='mergevq_mm.LoadImage'),
    dict(
        type='mmpretrain.ResizeEdge',
        scale=282,
        edge='short',
        backend='pillow',
        interpolation='bicubic',
    ),
    dict(type='mmpretrain.RandomCrop', crop_size=256),
    dict(type='mmpretrain.PackInputs'),
]

# The sampler and the workers are mmpretrain's. Inheritance across packages writes a
# `_scope_` into each dict, which mmengine would hand on to the collate function.
train_dataloader = dict(
    batch_size=16,
    drop_last=True,
    collate_fn=dict(_delete_=True, type='default_collate'),
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        split='train',
        num_classes=1000,
        pipeline=train_pipeline,
    ),
)

val_dataloader = dict(
    batch_size=16,
    num_workers=8,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    collate_fn=dict(type='default_collate'),
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        split='val',
        num_classes=1000,
        test_mode=True,
        pipeline=test_pipeline,
    ),
)

test_dataloader = val_dataloader
