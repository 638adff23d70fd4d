# MergeVQ (G+R) of the miniature: the quickstart's model without adversarial and
# perceptual terms, 4 passes over 4,000 images. K of the paper as a share of L:
# 36 of 64 positions, as 144 of 256.
#
# Hardware  one CPU core: a quarter of a second a step, 500 steps
# Run by us yes, by tools/benchmarks/miniature.py; see docs/representation.md
_base_ = ['../quickstart/mergevq_g+r_mnist5k.py']

model = dict(
    # The blocks start as those of mmpretrain's MAE. The usual N(0, 0.02) is too small
    # for a width of 64: see mergevq_g+r_small_weights.py.
    backbone=dict(init_cfg=dict(type='Xavier', layer='Linear', distribution='uniform')),
    # The paper's entropy loss; the quickstart's is for the sake of its generator.
    quantizer=dict(batch_entropy_weight=1.0),
    # The paper's recovery knows the codes alone.
    neck=dict(code_layers=0, num_classes=0, first_places=False),
    head=dict(perceptual=None, gan_weight=0.0),
    discriminator=None,
    keep=dict(
        _delete_=True,
        target=36,
        candidates=[30, 36, 42, 49, 56, 64],
        family='gaussian',
    ),
    test_cfg=dict(keep=[36, 64]),
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
train_cfg = dict(max_epochs=4, val_interval=4)
custom_hooks = [
    dict(type='mergevq_mm.RunStateHook'),
    dict(type='mergevq_mm.NaNGuardHook', max_skips=3),
    # A memory of 50 steps in a run of 500.
    dict(type='mergevq_mm.GeneratorEMAHook', momentum=0.02),
]
default_hooks = dict(checkpoint=dict(interval=4))
# Without the Fréchet distance of the quickstart.
test_evaluator = _base_.val_evaluator
