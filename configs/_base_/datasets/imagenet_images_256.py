# ImageNet-1K for stage 2 without files of codes: the tokenizer encodes each batch of
# images anew (shorter edge to 256, random crop, flip).
_base_ = ['./imagenet_codes_256.py']

train_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type='mergevq_mm.ImageFolder',
        data_root=_base_.data_root,
        split='train',
        num_classes=1000,
        pipeline=[
            dict(type='mergevq_mm.LoadImage'),
            *_base_.image_pipeline,
            dict(type='mmpretrain.PackInputs'),
        ],
    ),
)
