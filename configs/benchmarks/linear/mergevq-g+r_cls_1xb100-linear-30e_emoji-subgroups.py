# Linear probe of the emoji's tokenizer over their 99 sub-groups.
_base_ = ['mergevq-g+r_cls_1xb100-linear-30e_emoji.py']

classes = _base_.num_subgroups
model = dict(head=dict(num_classes=classes))
data_preprocessor = dict(num_classes=classes)
train_dataloader = dict(
    dataset=dict(num_classes=classes, ann_file=_base_.subgroups.train)
)
# Without names, for those of the folders are the groups'.
val_dataloader = dict(dataset=dict(num_classes=classes, ann_file=_base_.subgroups.val))
test_dataloader = val_dataloader
