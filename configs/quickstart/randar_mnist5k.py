# The quickstart's RandAR: 16 codes in random order, then source recovery.
_base_ = ['mergear_mnist5k.py']

model = dict(
    _delete_=True,
    type='mergevq_mm.RandAR',
    tokenizer=_base_.model.tokenizer,
    arch=_base_.model.arch,
    num_classes=10,
    keep=_base_.model.keep,
    class_dropout=0.1,
    dropout=0.1,
    sample_cfg=dict(num_steps=8, guidance=1.0),
)
