# Linear probe of the quickstart's tokenizer on its digits: class token, merging off.
#
# Weights   work_dirs/quickstart/epoch_18.pth, which `bash tools/quickstart.sh` writes
# Hardware  two CPU cores
# Run by us yes: 96.4 %; see docs/representation.md
_base_ = ['../../quickstart/mergevq_g+r_mnist5k.py']

classes, width = 10, _base_.embed_dims
model = dict(
    _delete_=True,
    type='mmpretrain.ImageClassifier',
    backbone=dict(
        **_base_.model.backbone,
        out_type='cls_token',
        frozen_stages=_base_.layers,
        init_cfg=dict(
            type='Pretrained',
            checkpoint='work_dirs/quickstart/epoch_18.pth',
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
    optimizer=dict(type='AdamW', lr=1e-1, weight_decay=0.0),
)
auto_scale_lr = dict(base_batch_size=100)
train_cfg = dict(max_epochs=30, val_interval=30)
custom_hooks = [
    dict(type='mergevq_mm.RunStateHook'),
    dict(type='mergevq_mm.ProgressHook'),
]
default_hooks = dict(checkpoint=dict(interval=30))
model_wrapper_cfg = None
