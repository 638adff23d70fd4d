# The emoji for stage 2: codes from the disk to train, the 564 held-out emoji to measure
# drawn ones against. Write the codes with
#   python tools/extract_codes.py configs/emoji/mergevq_g+r_emoji.py CHECKPOINT \
#       data/emoji/codes --keep 32 36 64
_base_ = ['./emoji64.py']

data_preprocessor = dict(_delete_=True, type='mergevq_mm.GeneratorDataPreprocessor')

train_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type='mergevq_mm.MergeVQCodes',
        root=_base_.data_root + '/codes',
    ),
)
