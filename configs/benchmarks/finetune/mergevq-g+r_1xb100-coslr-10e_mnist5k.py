# Fine-tuning of the quickstart's tokenizer on its digits: layer decay and drop path.
#
# Weights   work_dirs/quickstart/epoch_18.pth, which `bash tools/quickstart.sh` writes
# Hardware  two CPU cores
# Run by us yes: 95.5 %; see docs/representation.md
_base_ = ['../linear/mergevq-g+r_avg_1xb100-linear-30e_mnist5k.py']

model = dict(backbone=dict(frozen_stages=-1, drop_path_rate=0.1), neck=None)
optim_wrapper = dict(
    optimizer=dict(lr=2e-3, weight_decay=0.05),
    constructor='mmpretrain.LearningRateDecayOptimWrapperConstructor',
    paramwise_cfg=dict(
        layer_decay_rate=0.65,
        norm_decay_mult=0.0,
        bias_decay_mult=0.0,
        flat_decay_mult=0.0,
    ),
)
train_cfg = dict(max_epochs=10, val_interval=10)
default_hooks = dict(checkpoint=dict(interval=10))
