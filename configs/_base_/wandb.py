# Weights & Biases beside the local log (pip install wandb). A config of your own takes
# it so:
#
#   _base_ = ['mergevq_g+r.py', '_base_/wandb.py']
#   visualizer = dict(vis_backends=_base_.wandb_backends)
#
# Without a network: `--cfg-options visualizer.vis_backends.1.init_kwargs.mode=offline`,
# and later `wandb sync` of the folder under work_dirs/<run>/wandb. A resumed run goes
# on in the same W&B run; the axis of all numbers is `trainer/iteration`.
wandb_backends = [
    dict(type='LocalVisBackend'),
    dict(type='mergevq_mm.RunWandbBackend', init_kwargs=dict(project='mergevq_mm')),
]
