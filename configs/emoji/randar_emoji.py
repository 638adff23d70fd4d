# RandAR of the emoji: 32 codes, each with the place where its group begins, in random
# order and 16 passes, then source recovery. Size, guidance and temperature are those of
# the MergeAR with the same codes, so that the two compare.
#
# Data      codes at K = 32 (tools/extract_codes.py ... --keep 32, see the data set)
# Hardware  two CPU cores
# Run by us seed 0, by `bash tools/emoji.sh`; the numbers stand in docs/emoji.md
_base_ = ['mergear_emoji_distinct.py']

model = dict(
    _delete_=True,
    type='mergevq_mm.RandAR',
    tokenizer=_base_.model.tokenizer,
    arch=_base_.model.arch,
    num_classes=_base_.model.num_classes,
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
