# TensorBoard beside the local log. A config of your own takes it so:
#
#   _base_ = ['mergevq_g+r.py', '_base_/tensorboard.py']
#   visualizer = dict(vis_backends=_base_.tensorboard_backends)
#
# and `tensorboard --logdir work_dirs` shows it. All starts of a run share one folder,
# everything lies over the iterations, and what a resumed run repeats replaces what was
# logged before. (mmengine refuses two bases that set `visualizer`, hence the name.)
tensorboard_backends = [
    dict(type='LocalVisBackend'),
    dict(type='mergevq_mm.RunTensorboardBackend'),
]
