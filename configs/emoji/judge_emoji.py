# The judge of drawn emoji: an EfficientNet-Lite2 that is trained on for the nine
# groups, on images of 96 px.
#
# Data      data/emoji with the network's weights, written by `bash tools/emoji.sh`
# Hardware  two CPU cores
# Run by us seed 0, by `bash tools/emoji.sh`; the numbers stand in docs/emoji.md
_base_ = ['../_base_/datasets/emoji64.py', '../_base_/mergevq_runtime.py']

model = dict(
    type='mmpretrain.ImageClassifier',
    backbone=dict(
        type='mmpretrain.TIMMBackbone',
        model_name='tf_efficientnet_lite2',
        init_cfg=dict(
            type='Pretrained',
            checkpoint=_base_.data_root + '/efficientnet_lite2.safetensors',
        ),
    ),
    neck=dict(type='mmpretrain.GlobalAveragePooling'),
    head=dict(
        type='mmpretrain.LinearClsHead',
        num_classes=_base_.num_classes,
        in_channels=1280,
        loss=dict(type='mmpretrain.LabelSmoothLoss', label_smooth_val=0.1),
    ),
)
data_preprocessor = dict(
    _delete_=True,
    type='mmpretrain.ClsDataPreprocessor',
    mean=[127.5] * 3,
    std=[127.5] * 3,
    to_rgb=True,
    num_classes=_base_.num_classes,
)

larger = dict(type='mmpretrain.Resize', scale=96, interpolation='bicubic')
train_pipeline = [
    _base_.load,
    _base_.shift,
    _base_.flip,
    dict(
        type='mmpretrain.Rotate',
        magnitude_range=(0, 10),
        magnitude_std='inf',
        pad_val=_base_.white,
    ),
    larger,
    # What comes from tokens is softer than an emoji, and to be named all the same.
    dict(
        type='mmpretrain.GaussianBlur',
        magnitude_range=(0, 2),
        magnitude_std='inf',
        prob=0.7,
    ),
    dict(type='mmpretrain.PackInputs'),
]
test_pipeline = [_base_.load, larger, dict(type='mmpretrain.PackInputs')]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
# Of drawn emoji there are as many of each group: the recall is the mean over them.
val_evaluator = [
    dict(type='mmpretrain.Accuracy', topk=(1,)),
    dict(type='mmpretrain.SingleLabelMetric', items=('recall',)),
]
test_evaluator = val_evaluator

optim_wrapper = dict(optimizer=dict(type='AdamW', lr=5e-4, weight_decay=0.05))
param_scheduler = [
    dict(
        type='LinearLR',
        start_factor=0.02,
        by_epoch=True,
        end=1,
        convert_to_iter_based=True,
    ),
    dict(
        type='CosineAnnealingLR',
        by_epoch=True,
        begin=1,
        eta_min_ratio=0.01,
        convert_to_iter_based=True,
    ),
]
auto_scale_lr = dict(enable=False, base_batch_size=32)
train_cfg = dict(by_epoch=True, max_epochs=8, val_interval=8)
val_cfg = dict()
test_cfg = dict()

custom_hooks = [
    dict(type='mergevq_mm.RunStateHook'),
    dict(type='mergevq_mm.ProgressHook'),
]
default_hooks = dict(checkpoint=dict(interval=8, max_keep_ckpts=1))
model_wrapper_cfg = None
