# Linear probe of the emoji's tokenizer over nine groups: class token, merging off.
#
# Weights   work_dirs/emoji/epoch_48.pth, which `bash tools/emoji.sh` writes
# Hardware  two CPU cores
# Run by us once; the number stands in docs/emoji.md
_base_ = ['../../emoji/mergevq_g+r_emoji.py']

classes, width = _base_.num_classes, _base_.embed_dims
model = dict(
    _delete_=True,
    type='mmpretrain.ImageClassifier',
    backbone=dict(
        type=_base_.model.backbone.type,
        arch=_base_.model.backbone.arch,
        img_size=_base_.model.backbone.img_size,
        layer_scale=_base_.model.backbone.layer_scale,
        out_type='cls_token',
        frozen_stages=_base_.layers,
        init_cfg=dict(
            type='Pretrained',
            checkpoint='work_dirs/emoji/epoch_48.pth',
            prefix='backbone.',
        ),
    ),
    neck=dict(type='mmpretrain.ClsBatchNormNeck', input_features=width),
    head=dict(
        type='mmpretrain.LinearClsHead',
        num_classes=classes,
        in_channels=width,
        loss=dict(type='mmpretrain.CrossEntropyLoss'),
        init_cfg=dict(type='TruncNormal', layer='Linear', std=0.01),
    ),
)
data_preprocessor = dict(
    _delete_=True,
    type='mmpretrain.ClsDataPreprocessor',
    num_classes=classes,
    mean=[127.5] * 3,
    std=[127.5] * 3,
    to_rgb=True,
)
train_dataloader = dict(
    batch_size=100, drop_last=False, dataset=dict(pipeline=_base_.test_pipeline)
)
accuracy = [dict(type='mmpretrain.Accuracy', topk=(1,))]
val_evaluator = accuracy
test_evaluator = accuracy

optim_wrapper = dict(
    _delete_=True,
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=3e-2, weight_decay=0.0),
)
auto_scale_lr = dict(base_batch_size=100)
train_cfg = dict(max_epochs=30, val_interval=30)
custom_hooks = [
    dict(type='mergevq_mm.RunStateHook'),
    dict(type='mergevq_mm.ProgressHook'),
]
default_hooks = dict(checkpoint=dict(interval=30))
model_wrapper_cfg = None
