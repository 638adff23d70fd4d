# k-NN of the quickstart's tokenizer on its digits: class token, merging off.
#
#   python tools/test.py THIS_CONFIG work_dirs/quickstart/epoch_18.pth
_base_ = ['../linear/mergevq-g+r_cls_1xb100-linear-30e_mnist5k.py']

model = dict(
    backbone=dict(init_cfg=None),  # tools/test.py loads the checkpoint
    neck=None,
    head=dict(_delete_=True, type='mergevq_mm.FeatureHead'),
)

held_out = _base_.val_dataloader.dataset
test_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type='mmengine.ConcatDataset',
        datasets=[dict(held_out, split='train'), held_out],
    ),
)
test_evaluator = [dict(type='mergevq_mm.KNNAccuracy', ks=[10, 20, 100, 200])]
train_cfg = train_dataloader = optim_wrapper = param_scheduler = None
val_cfg = val_dataloader = val_evaluator = None
