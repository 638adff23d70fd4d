# The quickstart's RandAR: 32 codes, each with the place where its group begins, in
# random order and 16 passes, then source recovery. Guidance, temperature and dropout
# are those of the raster MergeAR, so that the two compare.
#
# Data      codes at K = 32 (tools/extract_codes.py ... --keep 32, see the data set)
_base_ = ['mergear_mnist5k_distinct.py']

model = dict(
    _delete_=True,
    type='mergevq_mm.RandAR',
    tokenizer=_base_.model.tokenizer,
    arch=_base_.model.arch,
    num_classes=10,
    first_places=True,
    keep=_base_.model.keep,
    class_dropout=0.1,
    dropout=_base_.model.dropout,
    sample_cfg=dict(
        num_steps=16,
        temperature=_base_.model.sample_cfg.temperature,
        guidance=_base_.model.sample_cfg.guidance,
    ),
)
