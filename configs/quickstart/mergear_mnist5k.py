# The quickstart's generator: a small MergeAR on the codes of the digits.
#
# Data      data/mnist5k/codes, written by tools/extract_codes.py (see the data set)
# Hardware  two CPU cores
# Run by us by `bash tools/quickstart.sh`; the numbers stand in docs/quickstart.md
_base_ = [
    '../_base_/models/mergear_l_g+r.py',
    '../_base_/datasets/mnist5k_codes.py',
    '../_base_/schedules/mergear_bs1024_300e.py',
]

model = dict(
    tokenizer=dict(
        model='configs/quickstart/mergevq_g+r_mnist5k.py',
        checkpoint='work_dirs/quickstart/epoch_18.pth',
    ),
    # 1.1 M parameters.
    arch=dict(
        _delete_=True,
        embed_dims=128,
        num_layers=4,
        num_heads=4,
        head_layers=1,
        ffn_multiple=32,
    ),
    # The neighbour above is in sight: the grid has 8 columns.
    window=9,
    # So short a run learns more without, and on more of smaller batches.
    dropout=0.0,
    num_classes=10,
    sample_cfg=dict(temperature=0.3, guidance=3.0),
    keep=dict(
        _delete_=True,
        target=16,
        candidates=[16, 25],
        weights=[0.9, 0.1],
    ),
)

optim_wrapper = dict(optimizer=dict(lr=2.5e-3, fused=True), accumulative_counts=1)
train_cfg = dict(max_epochs=17, val_interval=17)
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

# Without Inception's weights the Fréchet distance takes the features of a network with
# real ImageNet weights (18 MB). It takes images in [-1, 1].
extractor = dict(
    type='mergevq_mm.BackboneFeatures',
    network=dict(
        type='mmpretrain.TIMMBackbone',
        model_name='tf_efficientnet_lite0',
        init_cfg=dict(
            type='Pretrained', checkpoint='data/weights/efficientnet_lite0.safetensors'
        ),
    ),
    input_size=64,
)
# Beside it the distance of as many training digits.
training_digits = dict(
    type='mergevq_mm.ImageFolder',
    data_root=_base_.data_root,
    split='train',
    num_classes=10,
    test_mode=True,
    pipeline=_base_.test_pipeline,
)
val_evaluator = dict(
    metrics=[
        dict(
            type='mergevq_mm.GenerationFrechet',
            extractor=extractor,
            fake_nums=1000,
            reference=training_digits,
        ),
        dict(type='mergevq_mm.GenerationStatistics', fake_nums=1000),
    ],
)
# The judge of the classes: a LeNet-5 that the quickstart trains (lenet5_mnist5k.py).
judge = dict(
    type='mmpretrain.ImageClassifier',
    backbone=dict(type='mmpretrain.LeNet5', num_classes=10),
    head=dict(type='mmpretrain.ClsHead'),
    init_cfg=dict(
        type='Pretrained', checkpoint='work_dirs/quickstart/classifier/epoch_25.pth'
    ),
)
test_evaluator = dict(
    metrics=[
        *val_evaluator['metrics'],
        dict(
            type='mergevq_mm.ClassConsistency',
            classifier=judge,
            fake_nums=1000,
            grey=True,
        ),
    ],
)

custom_hooks = [
    dict(type='mergevq_mm.RunStateHook'),
    dict(type='mergevq_mm.TokenizerCheckHook'),
    dict(type='mergevq_mm.NaNGuardHook', max_skips=3),
    # A short run needs a short memory.
    dict(type='mergevq_mm.GeneratorEMAHook', momentum=0.01),
    dict(type='mergevq_mm.SampleVisualizationHook', num_images=50, columns=10),
    dict(type='mergevq_mm.ProgressHook'),
]
default_hooks = dict(
    logger=dict(interval=50), checkpoint=dict(interval=5, max_keep_ckpts=1)
)
train_dataloader = dict(batch_size=16, num_workers=0, persistent_workers=False)
auto_scale_lr = dict(base_batch_size=16)
val_dataloader = dict(num_workers=0, persistent_workers=False)
test_dataloader = dict(num_workers=0, persistent_workers=False)
