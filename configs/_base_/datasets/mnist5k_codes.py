# The digits for stage 2: codes from the disk to train, the 1,000 held-out digits to
# measure generated ones against. Write the codes with
#   python tools/extract_codes.py configs/quickstart/mergevq_g+r_mnist5k.py CHECKPOINT \
#       data/mnist5k/codes --no-flip --keep 16 25 36 49 64
_base_ = ['./mnist5k.py']

data_preprocessor = dict(_delete_=True, type='mergevq_mm.GeneratorDataPreprocessor')

train_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type='mergevq_mm.MergeVQCodes',
        root='data/mnist5k/codes',
        flip_prob=0.0,  # a mirrored digit is not a digit
    ),
)
