# Linear probe of MergeVQ (G+R): mean of the 18-bit codes, merging off.
_base_ = ['mergevq-g+r_cls_8xb128-linear-90e_in1k.py']

model = dict(
    backbone=dict(out_type='featmap'),
    neck=dict(
        _delete_=True,
        type='mergevq_mm.MeanCodes',
        quantizer=dict(
            type='mergevq_mm.LFQ',
            bits=18,
            in_channels=512,
            init_cfg=dict(
                type='Pretrained',
                checkpoint='work_dirs/mergevq_g+r/epoch_270.pth',
                prefix='quantizer.',
            ),
        ),
        norm=dict(type='mmpretrain.ClsBatchNormNeck', input_features=18),
    ),
    head=dict(in_channels=18),
)
