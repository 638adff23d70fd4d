# The quickstart's RandAR: 16 codes in random order, then source recovery. Guidance,
# temperature and dropout are those of the raster MergeAR, so that the two compare.
# Until November 2026 the dropout was 0.1; guidance and temperature were 1.
_base_ = ['mergear_mnist5k.py']

model = dict(
    _delete_=True,
    type='mergevq_mm.RandAR',
    tokenizer=_base_.model.tokenizer,
    arch=_base_.model.arch,
    num_classes=10,
    keep=_base_.model.keep,
    class_dropout=0.1,
    dropout=_base_.model.dropout,
    sample_cfg=dict(
        num_steps=8,
        temperature=_base_.model.sample_cfg.temperature,
        guidance=_base_.model.sample_cfg.guidance,
    ),
)
