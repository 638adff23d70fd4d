# The judge of generated digits: mmpretrain's LeNet-5 on the 4,000 training digits.
#
# Data      data/mnist5k, written by tools/dataset_converters/mnist5k.py
# Hardware  two CPU cores, about half a minute
# Run by us yes, by `bash tools/quickstart.sh`; its accuracy: docs/quickstart.md
_base_ = ['../_base_/datasets/mnist5k.py', '../_base_/mergevq_runtime.py']

model = dict(
    type='mmpretrain.ImageClassifier',
    backbone=dict(type='mmpretrain.LeNet5', num_classes=10),
    head=dict(type='mmpretrain.ClsHead', loss=dict(type='CrossEntropyLoss')),
)
data_preprocessor = dict(
    _delete_=True,
    type='mmpretrain.ClsDataPreprocessor',
    mean=[127.5],
    std=[127.5],
    num_classes=10,
)

grey = dict(type='mmpretrain.RandomGrayscale', prob=1.0)
train_pipeline = [
    dict(type='mergevq_mm.LoadImage'),
    # 28×28 with 4 black pixels on each side: shifts by up to 2 pixels.
    dict(type='mmpretrain.RandomCrop', crop_size=32, padding=4, pad_val=0),
    dict(type='mmpretrain.Rotate', magnitude_range=(0, 12), magnitude_std='inf'),
    grey,
    dict(type='mmpretrain.PackInputs'),
]
test_pipeline = [
    dict(type='mergevq_mm.LoadImage'),
    _base_.pad_to_32,
    grey,
    dict(type='mmpretrain.PackInputs'),
]

loader = dict(num_workers=0, persistent_workers=False)
train_dataloader = dict(**loader, dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(**loader, dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
val_evaluator = dict(type='mmpretrain.Accuracy', topk=(1,))
test_evaluator = val_evaluator

optim_wrapper = dict(optimizer=dict(type='AdamW', lr=4e-3, weight_decay=0.01))
param_scheduler = [
    dict(
        type='LinearLR',
        start_factor=0.1,
        by_epoch=True,
        end=3,
        convert_to_iter_based=True,
    ),
    dict(
        type='CosineAnnealingLR',
        by_epoch=True,
        begin=3,
        eta_min_ratio=0.001,
        convert_to_iter_based=True,
    ),
]
auto_scale_lr = dict(enable=False, base_batch_size=64)
train_cfg = dict(by_epoch=True, max_epochs=25, val_interval=25)
val_cfg = dict()
test_cfg = dict()

custom_hooks = [
    dict(type='mergevq_mm.RunStateHook'),
    dict(type='mergevq_mm.ProgressHook'),
]
default_hooks = dict(checkpoint=dict(interval=25, max_keep_ckpts=1))
model_wrapper_cfg = None
