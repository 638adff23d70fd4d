# MergeAR on the codes of the emoji: the raster of 64 positions, a class a group.
#
# Data      data/emoji/codes, written by tools/extract_codes.py (see the data set)
# Hardware  two CPU cores
# Run by us seed 0, by `bash tools/emoji.sh`; the numbers stand in docs/emoji.md
_base_ = [
    '../_base_/models/mergear_l_g+r.py',
    '../_base_/datasets/emoji64_codes.py',
    '../_base_/schedules/mergear_bs1024_300e.py',
]

model = dict(
    tokenizer=dict(
        model='configs/emoji/mergevq_g+r_emoji.py',
        checkpoint='work_dirs/emoji/epoch_48.pth',
    ),
    arch=dict(
        _delete_=True,
        embed_dims=192,
        num_layers=6,
        num_heads=6,
        head_layers=1,
        ffn_multiple=32,
    ),
    # The neighbour above is in sight: the grid has 8 columns.
    window=9,
    num_classes=_base_.num_classes,
    sample_cfg=dict(temperature=1.0, guidance=8.0),
    keep=dict(_delete_=True, target=36, candidates=[36]),
)

optim_wrapper = dict(optimizer=dict(lr=1.5e-3, fused=True), accumulative_counts=1)
train_cfg = dict(max_epochs=16, val_interval=16)
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

# The features of EfficientNet-Lite2, which takes images in [-1, 1].
weights = _base_.data_root + '/efficientnet_lite2.safetensors'
extractor = dict(
    type='mergevq_mm.BackboneFeatures',
    network=dict(
        type='mmpretrain.TIMMBackbone',
        model_name='tf_efficientnet_lite2',
        init_cfg=dict(type='Pretrained', checkpoint=weights),
    ),
    input_size=64,
)
# Beside it the distance of as many training images.
training_images = dict(
    type='mergevq_mm.ImageFolder',
    data_root=_base_.data_root,
    split='train',
    num_classes=_base_.num_classes,
    test_mode=True,
    pipeline=_base_.test_pipeline,
)
val_evaluator = dict(
    metrics=[
        dict(
            type='mergevq_mm.GenerationFrechet',
            extractor=extractor,
            fake_nums=900,
            reference=training_images,
        ),
        dict(type='mergevq_mm.GenerationStatistics', fake_nums=900),
    ],
)
# The judge of the groups, trained by judge_emoji.py, which enlarges
# them to 96 px.
judge = dict(
    type='mmpretrain.ImageClassifier',
    backbone=dict(type='mmpretrain.TIMMBackbone', model_name='tf_efficientnet_lite2'),
    neck=dict(type='mmpretrain.GlobalAveragePooling'),
    head=dict(type='mmpretrain.LinearClsHead', num_classes=9, in_channels=1280),
    init_cfg=dict(
        type='Pretrained', checkpoint='work_dirs/emoji/classifier/epoch_8.pth'
    ),
)
test_evaluator = dict(
    metrics=[
        *val_evaluator['metrics'],
        dict(
            type='mergevq_mm.ClassConsistency',
            classifier=judge,
            fake_nums=900,
            input_size=96,
        ),
    ],
)

custom_hooks = [
    dict(type='mergevq_mm.RunStateHook'),
    dict(type='mergevq_mm.TokenizerCheckHook'),
    dict(type='mergevq_mm.NaNGuardHook', max_skips=3),
    # A short run needs a short memory.
    dict(type='mergevq_mm.GeneratorEMAHook', momentum=0.01),
    dict(type='mergevq_mm.SampleVisualizationHook', num_images=45, columns=9),
    dict(type='mergevq_mm.ProgressHook'),
]
default_hooks = dict(
    logger=dict(interval=50), checkpoint=dict(interval=5, max_keep_ckpts=1)
)
train_dataloader = dict(batch_size=16, num_workers=0, persistent_workers=False)
auto_scale_lr = dict(base_batch_size=16)
