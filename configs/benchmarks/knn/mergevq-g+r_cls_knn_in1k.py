# k-NN of MergeVQ (G+R) on ImageNet-1K at 256 px: class token, merging off.
#
# Nothing is trained; one pass over training and validation images:
#   python tools/test.py THIS_CONFIG CHECKPOINT
#
# Hardware  8 GPUs x 128 images; the features of a process take 1.3 GB as float16
# Run by us no (needs ImageNet and GPUs); the tests run it shrunk
_base_ = ['../linear/mergevq-g+r_cls_8xb128-linear-90e_in1k.py']

model = dict(
    backbone=dict(init_cfg=None),  # tools/test.py loads the checkpoint
    neck=None,
    head=dict(_delete_=True, type='mergevq_mm.FeatureHead'),
)

pipeline = _base_.test_pipeline
folder = dict(type='mmpretrain.ImageNet', data_root='data/imagenet', pipeline=pipeline)
test_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type='mmengine.ConcatDataset',
        datasets=[dict(**folder, split='train'), dict(**folder, split='val')],
    ),
)
test_evaluator = dict(
    _delete_=True, type='mergevq_mm.KNNAccuracy', ks=[10, 20, 100, 200]
)
train_cfg = train_dataloader = optim_wrapper = param_scheduler = None
val_cfg = val_dataloader = val_evaluator = None
