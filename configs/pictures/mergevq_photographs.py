# A small tokenizer of colour photographs, for pictures that are worth looking at: the
# quickstart's networks with stride 4 on crops of 64 px, so 256 positions.
#
# Data      data/photographs64, by tools/dataset_converters/photograph_crops.py; the cat
#           is held out
# Hardware  two CPU cores
# Run by us to half (300 steps), for the pictures of docs/pictures.md
_base_ = ['../quickstart/mergevq_g+r_mnist5k.py']

load = dict(type='mergevq_mm.LoadImage')
pack = dict(type='mmpretrain.PackInputs')
views = dict(type='mmpretrain.MultiView', num_views=[1], transforms=[[]])

model = dict(
    backbone=dict(arch=dict(base_channels=16, channel_mult=(1, 2, 4)), img_size=64),
    # The paper's entropy loss; the quickstart's is for the sake of its generator.
    quantizer=dict(batch_entropy_weight=1.0),
    neck=dict(_delete_=True, type='mergevq_mm.GroupMapRecovery'),
    decoder=dict(base_channels=16, channel_mult=(1, 2, 4)),
    head=dict(
        pixel=dict(l1=1.0, l2=10.0),
        perceptual=None,
        source=None,
        alignment=None,
        gan_weight=0.0,
    ),
    discriminator=None,
    target_generator=None,
    keep=dict(
        _delete_=True,
        target=64,
        candidates=[32, 64, 128, 256],
        weights=[0.2, 0.4, 0.2, 0.2],
    ),
    test_cfg=dict(keep=[64, 256]),
)
optim_wrapper = dict(
    _delete_=True,
    constructor='mmagic.MultiOptimWrapperConstructor',
    generator=dict(
        type='OptimWrapper',
        modules=['backbone', 'quantizer', 'neck', 'decoder', 'head'],
        optimizer=_base_.optimizer,
        clip_grad=dict(max_norm=20.0),
    ),
)
train_dataloader = dict(
    batch_size=8,
    dataset=dict(
        data_root='data/photographs64/',
        split='train',
        num_classes=None,
        indices=list(range(0, 4000, 5)),  # 800 crops make an epoch of 100 steps
        pipeline=[load, views, pack],
    ),
)
auto_scale_lr = dict(base_batch_size=8)
train_cfg = dict(_delete_=True, by_epoch=True, max_epochs=6)
val_cfg = val_dataloader = val_evaluator = None
test_cfg = test_dataloader = test_evaluator = None
custom_hooks = [
    dict(type='mergevq_mm.RunStateHook'),
    dict(type='mergevq_mm.NaNGuardHook', max_skips=3),
    dict(type='mergevq_mm.GeneratorEMAHook', momentum=0.01),
    dict(type='mergevq_mm.ProgressHook'),
]
default_hooks = dict(checkpoint=dict(interval=1, max_keep_ckpts=6))
