# Ablation: MAE of the miniature with four times as many steps: about the seconds of
# MergeVQ (G+R).
_base_ = ['mae.py']

train_cfg = dict(max_epochs=16, val_interval=16)
default_hooks = dict(checkpoint=dict(interval=16))
